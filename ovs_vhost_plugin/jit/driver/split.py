# SPDX-License-Identifier: Apache-2.0
"""The driver's side of a split virtqueue (virtio 1.2, 2.7), whose chains are single descriptors.

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
from ovs_vhost_plugin.jit.driver.layout import DRIVER_RING_T, DriverRing
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import boolean, int64, void
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
def used_chains(ring: DriverRing) -> int:
    """The number of chains that the device has used and nobody has collected."""
    return int64((int64(load_acquire(ring.used, USED_IDX)) - ring.state[0]["seen"]) & 0xFFFF)


@kernel(int64(DRIVER_RING_T, int64), inline=True)
def _slot(ring: DriverRing, ahead: int) -> int:
    state = ring.state[0]
    return int64((state["seen"] + ahead) & (state["size"] - 1))


@kernel(int64(DRIVER_RING_T, int64), inline=True)
def used_id(ring: DriverRing, ahead: int) -> int:
    """The head of the used chain `ahead` places behind the next one to collect."""
    return int64(load_relaxed(ring.elements, element_id(_slot(ring, ahead))))


@kernel(int64(DRIVER_RING_T, int64), inline=True)
def used_length(ring: DriverRing, ahead: int) -> int:
    """The bytes that the device wrote into that chain, as it says."""
    return int64(load_relaxed(ring.elements, element_len(_slot(ring, ahead))))


@kernel(void(DRIVER_RING_T, int64, int64), inline=True)
def set_length(ring: DriverRing, head: int, length: int) -> None:
    """Set the length of a readable descriptor; its flags and `next` become 0."""
    store_relaxed(ring.desc, 2 * head + 1, length)


@kernel(void(DRIVER_RING_T, int64), inline=True)
def add_avail(ring: DriverRing, head: int) -> None:
    """Put a chain into the next avail slot, which the device does not see yet."""
    state = ring.state[0]
    store_relaxed(ring.avail, avail_ring(state["size"], state["next"]), head)
    state["next"] = (state["next"] + 1) & 0xFFFF


@kernel(boolean(DRIVER_RING_T))
def publish(ring: DriverRing) -> bool:
    """Show the device the chains that were added; return whether it wants a kick (2.7.13)."""
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


@kernel(boolean(DRIVER_RING_T, int64))
def enable_calls(ring: DriverRing, delay: int) -> bool:
    """Ask for a call when `delay` chains and one more are used; return whether they are already.

    Without the event index the device calls at the first one.
    """
    state = ring.state[0]
    if state["event_idx"]:
        store_relaxed(ring.avail, used_event(state["size"]), state["seen"] + delay)
    else:
        store_relaxed(ring.avail, AVAIL_FLAGS, 0)
    fence()
    return used_chains(ring) > delay


@kernel(void(DRIVER_RING_T))
def disable_calls(ring: DriverRing) -> None:
    """Ask for no calls; with the event index the last event stays behind the device's index."""
    if not ring.state[0]["event_idx"]:
        store_relaxed(ring.avail, AVAIL_FLAGS, AVAIL_F_NO_INTERRUPT)
