# SPDX-License-Identifier: Apache-2.0
"""The layout of a ring's areas, split and packed. No other file knows it.

Split (virtio 1.2, 2.7.6 and 2.7.8), in le16:

    `Vring.avail`    flags | idx | ring[size] | used_event
    `Vring.used`     flags | idx | ring[size] of le32 id, le32 len | avail_event
    `Vring.elements` the used ring's elements alone, in le32

Packed (2.8.14), in le16: both event areas are a struct pvirtq_event_suppress.

    `Vring.avail`    off_wrap | flags    the driver event area: when the device must call
    `Vring.used`     off_wrap | flags    the device event area: when the driver must kick

The dirty log counts bytes. A le16 at index i is at byte LE16 * i.
"""

from __future__ import annotations

from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import int64

LE16 = 2
"""Bytes of a le16."""

AVAIL_FLAGS, AVAIL_IDX, AVAIL_RING = 0, 1, 2
AVAIL_F_NO_INTERRUPT = 1
"""In the avail ring's flags: the driver wants no calls (2.7.7.1)."""
USED_FLAGS, USED_IDX, USED_RING = 0, 1, 2
USED_F_NO_NOTIFY = 1
"""In the used ring's flags: the device wants no kicks (2.7.10.1)."""
USED_ELEMENT_BYTES = 8
"""struct virtq_used_elem."""

EVENT_OFF_WRAP, EVENT_FLAGS = 0, 1
"""A slot of 15 bits and a wrap counter; then one of the flags below, in 2 bits."""
EVENT_BYTES = 4
EVENT_WRAP = 1 << 15
EVENT_FLAGS_MASK = 3
EVENT_FLAGS_ENABLE, EVENT_FLAGS_DISABLE, EVENT_FLAGS_DESC = 0, 1, 2
"""Notify always, never, or for the descriptor that off_wrap names (2.8.10)."""


@kernel(int64(int64, int64), inline=True)
def avail_ring(size: int, index: int) -> int:
    """The index in `avail` of the head of the chain with avail index `index`."""
    return AVAIL_RING + (index & (size - 1))


@kernel(int64(int64), inline=True)
def used_event(size: int) -> int:
    """The index in `avail` of the used index at which the driver wants a call (2.7.7.2)."""
    return AVAIL_RING + size


@kernel(int64(int64), inline=True)
def avail_event(size: int) -> int:
    """The index in `used` of the avail index at which the device wants a kick (2.7.10.2)."""
    return USED_RING + USED_ELEMENT_BYTES // LE16 * size


@kernel(int64(int64), inline=True)
def element_id(slot: int) -> int:
    """The index in `elements` of the id of the used element in `slot`."""
    return 2 * slot


@kernel(int64(int64), inline=True)
def element_len(slot: int) -> int:
    """The index in `elements` of its len: bytes that the device has written."""
    return 2 * slot + 1


@kernel(int64(int64), inline=True)
def element_byte(slot: int) -> int:
    """The byte of the used ring at which the element in `slot` begins."""
    return LE16 * USED_RING + USED_ELEMENT_BYTES * slot
