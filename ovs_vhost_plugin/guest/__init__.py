# SPDX-License-Identifier: Apache-2.0
"""Software guests: the front-end of vhost-user and virtio-net drivers, in Python and compiled."""
