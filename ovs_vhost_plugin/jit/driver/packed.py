# SPDX-License-Identifier: Apache-2.0
"""The driver's side of a packed virtqueue (virtio 1.2, 2.8): the functions of `ring.py`, in order.

A descriptor's second word has length, buffer id and flags, and is written and read in one piece.
The first one of several chains is written last, with release. Until then the device, which reads no
other descriptor before it, sees none of them (2.8.21). Each chain takes one slot. Its used one need
not lie where it was offered: the buffer id alone says which buffer has come back (2.8.6).
"""

from __future__ import annotations

from ovs_vhost_plugin.jit.atomics import (
    fence,
    load_acquire,
    load_relaxed,
    store_relaxed,
    store_release,
)
from ovs_vhost_plugin.jit.driver.layout import DRIVER_RING_T, NONE, DriverRing
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import TWO_T, boolean, int64, void
from ovs_vhost_plugin.jit.ring.descriptor import (
    acquire_word,
    length_of,
    packed_avail_word,
    packed_id,
    put_address,
    put_word,
    release_word,
)
from ovs_vhost_plugin.jit.ring.offsets import (
    EVENT_FLAGS,
    EVENT_FLAGS_DESC,
    EVENT_FLAGS_DISABLE,
    EVENT_FLAGS_ENABLE,
    EVENT_FLAGS_MASK,
    EVENT_OFF_WRAP,
)
from ovs_vhost_plugin.jit.ring.position import (
    advance,
    is_used,
    off_wrap,
    passes,
    position_of_event,
    slot_of,
    wrap_of,
)


@kernel(TWO_T(DRIVER_RING_T), inline=True)
def take_used(ring: DriverRing) -> tuple[int, int]:
    """As `ring.take_used` (2.8.22)."""
    state = ring.state[0]
    size, seen = state["size"], state["seen"]
    word = acquire_word(ring.desc, slot_of(size, seen))
    if not is_used(size, seen, word):
        return int64(NONE), int64(0)
    state["seen"] = advance(size, seen, 1)
    return packed_id(word), length_of(word)


@kernel(void(DRIVER_RING_T, int64, int64, int64), inline=True)
def add_avail(ring: DriverRing, head: int, address: int, length: int) -> None:
    """As `ring.add_avail`."""
    state = ring.state[0]
    size, at = state["size"], state["next"]
    word = packed_avail_word(head, length, wrap_of(size, at), state["writes"])
    put_address(ring.desc, slot_of(size, at), address)
    if at == state["published"]:
        state["first_word"] = word
    else:
        put_word(ring.desc, slot_of(size, at), word)
    state["next"] = advance(size, at, 1)


@kernel(boolean(DRIVER_RING_T), inline=True)
def publish(ring: DriverRing) -> bool:
    """As `ring.publish` (2.8.21)."""
    state = ring.state[0]
    size, old, new = state["size"], state["published"], state["next"]
    if old == new:
        return False
    release_word(ring.desc, slot_of(size, old), state["first_word"])
    state["published"] = new
    fence()
    flags = int64(load_acquire(ring.used, EVENT_FLAGS)) & EVENT_FLAGS_MASK
    if flags != EVENT_FLAGS_DESC or not state["event_idx"]:
        return flags != EVENT_FLAGS_DISABLE
    event = int64(load_relaxed(ring.used, EVENT_OFF_WRAP))
    return passes(size, position_of_event(size, event), new, old)


@kernel(boolean(DRIVER_RING_T, int64), inline=True)
def enable_calls(ring: DriverRing, delay: int) -> bool:
    """As `ring.enable_calls`. Used descriptors lie in a row, so the last in question tells."""
    state = ring.state[0]
    size = state["size"]
    last = advance(size, state["seen"], delay)
    if state["event_idx"]:
        store_relaxed(ring.avail, EVENT_OFF_WRAP, off_wrap(size, last))
        store_release(ring.avail, EVENT_FLAGS, EVENT_FLAGS_DESC)
    else:
        store_relaxed(ring.avail, EVENT_FLAGS, EVENT_FLAGS_ENABLE)
    fence()
    return is_used(size, last, acquire_word(ring.desc, slot_of(size, last)))


@kernel(void(DRIVER_RING_T), inline=True)
def disable_calls(ring: DriverRing) -> None:
    """As `ring.disable_calls`. A stale event would be passed again every other time around."""
    store_relaxed(ring.avail, EVENT_FLAGS, EVENT_FLAGS_DISABLE)
