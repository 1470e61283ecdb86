# SPDX-License-Identifier: Apache-2.0
"""A driver's ring of either layout, whose chains are single descriptors, and its buffers.

`split.py` and `packed.py` have the five functions of the layout, in the order below and with the
same signatures; a test holds that. Nothing else in the driver knows which of them a ring has.

    take_used        the next used chain
    add_avail        a chain for the device, which it does not see yet
    publish          now it does
    enable_calls     before sleep: calls, and one more look
    disable_calls    no calls while the loop looks anyway
"""

from __future__ import annotations

from ovs_vhost_plugin.jit.driver import packed, split
from ovs_vhost_plugin.jit.driver.layout import BROKEN, DRIVER_RING_T, NONE, DriverRing
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import TWO_T, boolean, int64, void


@kernel(TWO_T(DRIVER_RING_T), inline=True)
def take_used(ring: DriverRing) -> tuple[int, int]:
    """The head of the next used chain and the bytes in it, as the device says; or NONE."""
    if ring.state[0]["packed"]:
        return packed.take_used(ring)
    return split.take_used(ring)


@kernel(void(DRIVER_RING_T, int64, int64, int64), inline=True)
def add_avail(ring: DriverRing, head: int, address: int, length: int) -> None:
    """Describe a buffer and add it to the ring, which the device does not see yet."""
    if ring.state[0]["packed"]:
        packed.add_avail(ring, head, address, length)
    else:
        split.add_avail(ring, head, address, length)


@kernel(boolean(DRIVER_RING_T), inline=True)
def publish(ring: DriverRing) -> bool:
    """Show the device the chains that were added; return whether it wants a kick."""
    if ring.state[0]["packed"]:
        return packed.publish(ring)
    return split.publish(ring)


@kernel(boolean(DRIVER_RING_T, int64), inline=True)
def enable_calls(ring: DriverRing, delay: int) -> bool:
    """Ask for a call when `delay` chains and one more are used; return whether they are already.

    Without the event index the device calls at the first one.
    """
    if ring.state[0]["packed"]:
        return packed.enable_calls(ring, delay)
    return split.enable_calls(ring, delay)


@kernel(void(DRIVER_RING_T), inline=True)
def disable_calls(ring: DriverRing) -> None:
    """Ask for no calls."""
    if ring.state[0]["packed"]:
        packed.disable_calls(ring)
    else:
        split.disable_calls(ring)


@kernel(int64(DRIVER_RING_T, int64), inline=True)
def buffer_address(ring: DriverRing, head: int) -> int:
    """The address of a buffer in this process."""
    return int64(ring.state[0]["buffers"] + head * ring.state[0]["length"])


@kernel(TWO_T(DRIVER_RING_T), inline=True)
def collect(ring: DriverRing) -> tuple[int, int]:
    """Free the buffer of the next used chain; return its head and the bytes in it.

    The head is NONE if there is no chain, and BROKEN if the device does not have that buffer or
    says that it wrote more. What it says of a buffer that it only reads does not count (2.8.13).
    """
    state = ring.state[0]
    head, length = take_used(ring)
    if head == NONE:
        return head, length
    if head >= len(ring.free) or ring.offered[head] == 0:
        return int64(BROKEN), length
    if state["writes"] and length > state["length"]:
        return int64(BROKEN), length
    ring.offered[head] = 0
    ring.free[state["free"]] = head
    state["free"] += 1
    return head, length


@kernel(void(DRIVER_RING_T, int64), inline=True)
def offer(ring: DriverRing, length: int) -> None:
    """Offer `length` bytes of the last free buffer; the device does not see them yet."""
    state = ring.state[0]
    state["free"] -= 1
    head = ring.free[state["free"]]
    ring.offered[head] = 1
    add_avail(ring, head, state["guest"] + head * state["length"], length)


@kernel(void(DRIVER_RING_T))
def offer_all(ring: DriverRing) -> None:
    """Offer all free buffers whole."""
    while ring.state[0]["free"] > 0:
        offer(ring, ring.state[0]["length"])
