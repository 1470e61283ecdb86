# SPDX-License-Identifier: Apache-2.0
"""A virtqueue's device side, split and packed: chains, used elements, notifications, dirty log."""
