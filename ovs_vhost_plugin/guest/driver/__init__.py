# SPDX-License-Identifier: Apache-2.0
"""The driver's side: guest memory, virtqueues, and a virtio-net driver on them."""
