# SPDX-License-Identifier: Apache-2.0
"""The front-end's side of vhost-user, as QEMU speaks it."""
