# SPDX-License-Identifier: Apache-2.0
"""A guest's life: its tap's frames into the transmit ring, the receive ring's into its tap.

The tap's other side is Linux's own network stack, in the guest's network namespace. Tap and ring
have the same header before each frame, so the kernel reads and writes the guest's buffers, and
nothing is copied here. The loop sleeps in poll() when there is nothing to do, without a timeout.
"""

from __future__ import annotations

from errno import EINTR
from select import POLLIN

from ovs_vhost_plugin.jit.atomics import address_of, load_acquire, load_u16_at
from ovs_vhost_plugin.jit.driver.layout import (
    BROKEN,
    DRIVER_RING_T,
    HEADER_BYTES,
    NONE,
    TAP_GUEST_T,
    DriverRing,
    TapGuest,
)
from ovs_vhost_plugin.jit.driver.ring import (
    buffer_address,
    collect,
    disable_calls,
    enable_calls,
    offer,
    offer_all,
    publish,
)
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import boolean, int64, void
from ovs_vhost_plugin.jit.syscalls import poll, read_event, readv, write_event, writev

BURST = 64
"""Frames before the other direction has its turn."""
BATCH = 8
"""Frames that the device sees at once, while more of them are read."""
PAGE = 4096
WAKE, RX_CALL, TX_CALL, TAP = 0, 1, 2, 3
"""Indices in the array of pollfds."""
_GSO_TYPE, _NUM_BUFFERS = 1, 10  # offsets in the header (5.1.6.1)


@kernel(boolean(int64), inline=True)
def is_large(address: int) -> bool:
    """Whether the header at `address` says that its frame is still to be segmented."""
    return int64(load_u16_at(address)) >> 8 * _GSO_TYPE != 0


@kernel(boolean(DRIVER_RING_T), inline=True)
def _reclaim(ring: DriverRing) -> bool:
    """Free the buffers of all used chains; False if the device broke the rules."""
    head, _ = collect(ring)
    while head >= 0:
        head, _ = collect(ring)
    return head == NONE


@kernel(void(TAP_GUEST_T), inline=True)
def _show_sent(guest: TapGuest) -> None:
    if publish(guest.tx):
        write_event(guest.tx.state[0]["kick_fd"], guest.scratch)
        guest.counters[0]["tx_kicks"] += 1


@kernel(void(TAP_GUEST_T, int64, int64), inline=True)
def _mark_written(guest: TapGuest, head: int, length: int) -> None:
    """Mark the pages of a buffer after a write, for a migration to send again."""
    state = guest.tx.state[0]
    first = state["first_page"] + head * state["length"] // PAGE
    for page in range(first, first + (length + PAGE - 1) // PAGE):
        guest.written[page] = 1


@kernel(int64(TAP_GUEST_T))
def transmit(guest: TapGuest) -> int:
    """One burst from the tap: how many frames were sent."""
    ring, counters, iovec = guest.tx, guest.counters[0], guest.iov[0]
    state = ring.state[0]
    if not _reclaim(ring):
        guest.state[0]["fault"] = 1
        return 0
    done = 0
    while done < BURST and state["free"] > 0:
        head = ring.free[state["free"] - 1]
        address = buffer_address(ring, head)
        iovec["base"] = address
        iovec["len"] = state["length"]
        length = readv(guest.state[0]["cfg_tap_fd"], address_of(guest.iov, 0), 1)
        if length <= HEADER_BYTES:
            break
        _mark_written(guest, head, length)
        offer(ring, length)
        counters["tx_packets"] += 1
        counters["tx_bytes"] += length
        counters["tx_gso"] += 1 if is_large(address) else 0
        done += 1
        if done % BATCH == 0:
            _show_sent(guest)
    _show_sent(guest)
    return done


@kernel(int64(TAP_GUEST_T))
def _gather(guest: TapGuest) -> int:
    """Collect the next frame's buffers into the iovecs: their number, 0, or BROKEN.

    The first header has the number, and the device uses them together (5.1.6.4.1). So if one is
    missing, the device is broken.
    """
    ring = guest.rx
    head, length = collect(ring)
    if head < 0:
        return 0 if head == NONE else head
    count = int64(load_u16_at(buffer_address(ring, head) + _NUM_BUFFERS))
    if count == 0 or count > len(guest.iov):
        return int64(BROKEN)
    for at in range(count):
        if at > 0:
            head, length = collect(ring)
        if head < 0:
            return int64(BROKEN)
        guest.iov[at]["base"] = buffer_address(ring, head)
        guest.iov[at]["len"] = length
    return count


@kernel(boolean(TAP_GUEST_T, int64))
def _deliver(guest: TapGuest, buffers: int) -> bool:
    """Write the gathered frame to the tap; False if it has no more than a header."""
    counters = guest.counters[0]
    length = int64(0)
    for at in range(buffers):
        length += guest.iov[at]["len"]
    if length <= HEADER_BYTES:
        return False
    fd, iovecs = guest.state[0]["cfg_tap_fd"], address_of(guest.iov, 0)
    large = is_large(guest.iov[0]["base"])
    sent = writev(fd, iovecs, buffers)
    while sent == -EINTR:
        sent = writev(fd, iovecs, buffers)
    if sent == length:
        counters["rx_packets"] += 1
        counters["rx_bytes"] += length
        counters["rx_gso"] += 1 if large else 0
    else:
        counters["rx_refused"] += 1
    return True


@kernel(int64(TAP_GUEST_T))
def receive(guest: TapGuest) -> int:
    """One burst to the tap: how many frames were received."""
    ring = guest.rx
    done = 0
    while done < BURST:
        buffers = _gather(guest)
        if buffers == 0:
            break
        if buffers < 0 or not _deliver(guest, buffers):
            guest.state[0]["fault"] = 1
            break
        offer_all(ring)
        done += 1
    if publish(ring):
        write_event(ring.state[0]["kick_fd"], guest.scratch)
        guest.counters[0]["rx_kicks"] += 1
    return done


@kernel(void(TAP_GUEST_T, int64, int64), inline=True)
def _wait_for(guest: TapGuest, place: int, fd: int) -> None:
    guest.poll[place]["fd"] = fd
    guest.poll[place]["events"] = POLLIN
    guest.poll[place]["revents"] = 0


@kernel(void(TAP_GUEST_T))
def sleep(guest: TapGuest) -> None:
    """Wait for frames, or if all transmit buffers are out, until half of them have come back."""
    rx, tx, state = guest.rx.state[0], guest.tx.state[0], guest.state[0]
    full = tx["free"] == 0
    more = enable_calls(guest.rx, 0)
    if full:
        more |= enable_calls(guest.tx, len(guest.tx.free) // 2)
    if not more:
        _wait_for(guest, WAKE, state["cfg_wake_fd"])
        _wait_for(guest, RX_CALL, rx["call_fd"])
        _wait_for(guest, TX_CALL, tx["call_fd"] if full else -1)
        _wait_for(guest, TAP, -1 if full else state["cfg_tap_fd"])
        poll(address_of(guest.poll, 0), len(guest.poll), -1)
        guest.counters[0]["wakeups"] += 1
        for place in (WAKE, RX_CALL, TX_CALL):
            if guest.poll[place]["revents"]:
                read_event(guest.poll[place]["fd"], guest.scratch)
        if guest.poll[TAP]["revents"] & ~POLLIN:
            state["fault"] = 1
    disable_calls(guest.rx)
    disable_calls(guest.tx)


@kernel(void(TAP_GUEST_T))
def run(guest: TapGuest) -> None:
    """Be the guest until `guest.stop` is set and its wake eventfd is written, or a fault."""
    while load_acquire(guest.stop, 0) == 0:
        done = transmit(guest) + receive(guest)
        if guest.state[0]["fault"]:
            break
        if done == 0:
            sleep(guest)
