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
    DRIVER_RING_T,
    HEADER_BYTES,
    TAP_GUEST_T,
    DriverRing,
    TapGuest,
)
from ovs_vhost_plugin.jit.driver.split import (
    add_avail,
    disable_calls,
    enable_calls,
    publish,
    set_length,
    used_chains,
    used_id,
    used_length,
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


@kernel(int64(DRIVER_RING_T, int64), inline=True)
def buffer_address(ring: DriverRing, head: int) -> int:
    """Where a buffer is in this process."""
    return int64(ring.state[0]["buffers"] + head * ring.state[0]["stride"])


@kernel(boolean(int64), inline=True)
def is_large(address: int) -> bool:
    """Whether the header at `address` says that its frame is still to be segmented."""
    return int64(load_u16_at(address)) >> 8 * _GSO_TYPE != 0


@kernel(boolean(DRIVER_RING_T))
def reclaim(ring: DriverRing) -> bool:
    """Free the buffers of chains that the device has used; False if it used a stranger."""
    state = ring.state[0]
    count = used_chains(ring)
    if count + state["free"] > len(ring.free):
        return False
    for ahead in range(count):
        head = used_id(ring, ahead)
        if head >= len(ring.free):
            return False
        ring.free[state["free"]] = head
        state["free"] += 1
    state["seen"] = (state["seen"] + count) & 0xFFFF
    return True


@kernel(void(TAP_GUEST_T), inline=True)
def _show_sent(guest: TapGuest) -> None:
    if publish(guest.tx):
        write_event(guest.tx.state[0]["kick_fd"], guest.scratch)
        guest.counters[0]["tx_kicks"] += 1


@kernel(void(TAP_GUEST_T, int64, int64), inline=True)
def _mark_written(guest: TapGuest, head: int, length: int) -> None:
    """Mark the pages of a buffer after a write, for a migration to send again."""
    state = guest.tx.state[0]
    first = state["first_page"] + head * state["stride"] // PAGE
    for page in range(first, first + (length + PAGE - 1) // PAGE):
        guest.written[page] = 1


@kernel(int64(TAP_GUEST_T))
def transmit(guest: TapGuest) -> int:
    """One burst from the tap: how many frames were sent."""
    ring, counters, iovec = guest.tx, guest.counters[0], guest.iov[0]
    state = ring.state[0]
    if not reclaim(ring):
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
        state["free"] -= 1
        _mark_written(guest, head, length)
        set_length(ring, head, length)
        add_avail(ring, head)
        counters["tx_packets"] += 1
        counters["tx_bytes"] += length
        counters["tx_gso"] += 1 if is_large(address) else 0
        done += 1
        if done % BATCH == 0:
            _show_sent(guest)
    _show_sent(guest)
    return done


@kernel(int64(TAP_GUEST_T, int64))
def _gather(guest: TapGuest, buffers: int) -> int:
    """Fill in iovecs for the next frame's buffers; return its bytes, 0 for a broken device."""
    ring = guest.rx
    total = int64(0)
    for ahead in range(buffers):
        head, length = used_id(ring, ahead), used_length(ring, ahead)
        if head >= len(ring.free) or length > ring.state[0]["length"]:
            return 0
        guest.iov[ahead]["base"] = buffer_address(ring, head)
        guest.iov[ahead]["len"] = length
        total += length
    return total


@kernel(int64(TAP_GUEST_T, int64))
def _deliver(guest: TapGuest, ready: int) -> int:
    """Write the next frame to the tap and offer its buffers again: their number, 0 if broken."""
    ring, counters = guest.rx, guest.counters[0]
    state = ring.state[0]
    if used_id(ring, 0) >= len(ring.free):
        return 0
    header = buffer_address(ring, used_id(ring, 0))
    buffers = int64(load_u16_at(header + _NUM_BUFFERS))
    if buffers == 0 or buffers > ready:  # 5.1.6.4.1: a frame's buffers are used together
        return 0
    length = _gather(guest, buffers)
    if length <= HEADER_BYTES:
        return 0
    fd, iovecs = guest.state[0]["cfg_tap_fd"], address_of(guest.iov, 0)
    large = is_large(header)
    sent = writev(fd, iovecs, buffers)
    while sent == -EINTR:
        sent = writev(fd, iovecs, buffers)
    if sent == length:
        counters["rx_packets"] += 1
        counters["rx_bytes"] += length
        counters["rx_gso"] += 1 if large else 0
    else:
        counters["rx_refused"] += 1
    for ahead in range(buffers):
        add_avail(ring, used_id(ring, ahead))
    state["seen"] = (state["seen"] + buffers) & 0xFFFF
    return buffers


@kernel(int64(TAP_GUEST_T))
def receive(guest: TapGuest) -> int:
    """One burst to the tap: how many frames were received."""
    ring = guest.rx
    ready = used_chains(ring)
    done = 0
    while ready > 0 and done < BURST:
        buffers = _deliver(guest, ready)
        if buffers == 0:
            guest.state[0]["fault"] = 1
            break
        ready -= buffers
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
    while load_acquire(guest.stop, 0) == 0 and guest.state[0]["fault"] == 0:
        if transmit(guest) + receive(guest) == 0:
            sleep(guest)
