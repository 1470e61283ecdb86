# SPDX-License-Identifier: Apache-2.0
"""A software guest: the front-end of vhost-user and a virtio-net driver, in plain Python."""
