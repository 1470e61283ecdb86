# SPDX-License-Identifier: Apache-2.0
"""The driver's side of a split virtqueue (virtio 1.2, 2.7): the functions of `ring.py`, in order.

The avail index is written with release and the used index read with acquire, so that the entries
that they cover are complete. Each question whether the other side sleeps is asked behind a fence
(2.7.13.4.1, 2.7.14).
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
from ovs_vhost_plugin.jit.ring.descriptor import put_address, put_word, split_word
from ovs_vhost_plugin.jit.ring.offsets import (
    AVAIL_F_NO_INTERRUPT,
    AVAIL_FLAGS,
    AVAIL_IDX,
    USED_F_NO_NOTIFY,
    USED_FLAGS,
    USED_IDX,
    avail_event,
    avail_ring,
    element_id,
    element_len,
    used_event,
)
from ovs_vhost_plugin.jit.ring.split import need_event


@kernel(int64(DRIVER_RING_T), inline=True)
def _used_chains(ring: DriverRing) -> int:
    """The number of chains that the device has used and nobody has collected."""
    return int64((int64(load_acquire(ring.used, USED_IDX)) - ring.state[0]["seen"]) & 0xFFFF)


@kernel(TWO_T(DRIVER_RING_T), inline=True)
def take_used(ring: DriverRing) -> tuple[int, int]:
    """As `ring.take_used`."""
    state = ring.state[0]
    if _used_chains(ring) == 0:
        return int64(NONE), int64(0)
    slot = int64(state["seen"] & (state["size"] - 1))
    state["seen"] = (state["seen"] + 1) & 0xFFFF
    head = int64(load_relaxed(ring.elements, element_id(slot)))
    return head, int64(load_relaxed(ring.elements, element_len(slot)))


@kernel(void(DRIVER_RING_T, int64, int64, int64), inline=True)
def add_avail(ring: DriverRing, head: int, address: int, length: int) -> None:
    """As `ring.add_avail`."""
    state = ring.state[0]
    put_address(ring.desc, head, address)
    put_word(ring.desc, head, split_word(length, state["writes"]))
    store_relaxed(ring.avail, avail_ring(state["size"], state["next"]), head)
    state["next"] = (state["next"] + 1) & 0xFFFF


@kernel(boolean(DRIVER_RING_T), inline=True)
def publish(ring: DriverRing) -> bool:
    """As `ring.publish` (2.7.13)."""
    state = ring.state[0]
    old, new = state["published"], state["next"]
    if old == new:
        return False
    store_release(ring.avail, AVAIL_IDX, new)
    state["published"] = new
    fence()
    if state["event_idx"]:
        event = int64(load_relaxed(ring.used, avail_event(state["size"])))
        return need_event(event, new, old)
    return int64(load_relaxed(ring.used, USED_FLAGS)) & USED_F_NO_NOTIFY == 0


@kernel(boolean(DRIVER_RING_T, int64), inline=True)
def enable_calls(ring: DriverRing, delay: int) -> bool:
    """As `ring.enable_calls`."""
    state = ring.state[0]
    if state["event_idx"]:
        store_relaxed(ring.avail, used_event(state["size"]), state["seen"] + delay)
    else:
        store_relaxed(ring.avail, AVAIL_FLAGS, 0)
    fence()
    return _used_chains(ring) > delay


@kernel(void(DRIVER_RING_T), inline=True)
def disable_calls(ring: DriverRing) -> None:
    """As `ring.disable_calls`. With the event index the last event stays behind the device's."""
    if not ring.state[0]["event_idx"]:
        store_relaxed(ring.avail, AVAIL_FLAGS, AVAIL_F_NO_INTERRUPT)
