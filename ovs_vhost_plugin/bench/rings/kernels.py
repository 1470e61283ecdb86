# SPDX-License-Identifier: Apache-2.0
"""Ring work without a tap: bursts of frames between rings and private packets, by our kernels.

A port lets the kernel copy payload between guest memory and the tap. A back-end that polls, such as
DPDK's, copies each packet into memory of its own instead. These kernels do the same, so that the
two can be compared. All else is a port's own code: `pop_avail`, `take_header`, `complete`,
`add_used` and `flush_and_call`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ovs_vhost_plugin.jit.atomics import (
    address_of,
    copy_in,
    copy_out,
    load_acquire,
    load_i64_at,
    load_relaxed,
    load_u16_at,
    store_release,
)
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
    CHAINS,
    HEADER_MAX,
    I64_T,
    MEMORY_T,
    NET_T,
    PAIR_T,
    QUEUE_T,
    U8_T,
    VRING_T,
    Memory,
    Net,
    Pair,
    Queue,
    Vring,
    int64,
    uint64,
    void,
)
from ovs_vhost_plugin.jit.loop import alive
from ovs_vhost_plugin.jit.net.receive import complete
from ovs_vhost_plugin.jit.net.transmit import take_header
from ovs_vhost_plugin.jit.result import fault_of
from ovs_vhost_plugin.jit.ring.held import gather, scatter
from ovs_vhost_plugin.jit.ring.notify import break_ring, flush_and_call
from ovs_vhost_plugin.jit.ring.ring import (
    add_used,
    disable_notification,
    enable_notification,
    pop_avail,
)
from ovs_vhost_plugin.jit.syscalls import poll

BURST = 32
"""Packets at once, as in dpdk-testpmd."""
PACKET_MAX = 2048
"""Bytes of a packet, with its virtio-net header; an mbuf's room."""
SPACING = PACKET_MAX + 2 * 64
"""Bytes from packet to packet: with a power of two, the first lines of all would share a few places
of the processor's first cache."""
FIRST = 64 - 12
"""Offset of the first packet: frames behind a header of 12 bytes begin a cache line."""
FRAME_HEADERS = 14 + 20 + 8
"""Bytes of Ethernet, IPv4 and UDP headers."""
IDLE, SEND, RECEIVE, LOOPBACK = range(4)
"""Work of `serve`: nothing, take the guest's frames, fill its receive buffers, both."""
WANTED, DONE, LOOKS, IN_VAIN = range(4)
"""Places in `mode`: the wanted work, the current work, looks into a ring, looks that found
nothing."""

_ANY_LENGTH = 1 << 62
_IDLE_MS = 1


def new_packets() -> NDArray[np.uint8]:
    """Room for BURST packets, beginning on a cache line."""
    room = np.zeros(BURST * SPACING + 64, np.uint8)
    return room[-room.ctypes.data % 64 :][: BURST * SPACING]


@kernel(int64(VRING_T, QUEUE_T, MEMORY_T, NET_T, U8_T, I64_T))
def take(
    ring: Vring,
    queue: Queue,
    memory: Memory,
    net: Net,
    packets: NDArray[np.uint8],
    lengths: NDArray[np.int64],
) -> int:
    """Copy the driver's frames into `packets`, behind room for a header; return how many."""
    result = pop_avail(ring, memory, queue, BURST, _ANY_LENGTH)
    header = net.state[0]["cfg_header_size"]
    counters = net.counters[0]
    if queue.state[0]["count"] > 0:
        disable_notification(ring, memory, net)
    taken = 0
    while queue.state[0]["count"] > 0:
        length = queue.chains[queue.state[0]["head"]]["length"]
        at = take_header(queue, net)
        if at < 0 or length > PACKET_MAX:
            counters["tx_dropped_faulty"] += 1
        else:
            gather(queue, at, packets, FIRST + SPACING * taken + header, length - header)
            lengths[taken] = length
            taken += 1
            counters["tx_packets"] += 1
            counters["tx_bytes"] += length - header
        add_used(ring, queue, 0)
    flush_and_call(ring, memory, net)
    if result < 0:
        break_ring(ring, net, fault_of(result))
    return taken


@kernel(void(QUEUE_T, int64, int64, U8_T, int64, int64), inline=True)
def _write_packet(
    queue: Queue, at: int, header: int, packets: NDArray[np.uint8], index: int, length: int
) -> None:
    """Copy a packet into iovecs from `at` on, its `header` bytes of header only if they differ.

    As librte_vhost does: a line that nobody writes stays in the caches of both processors.
    `complete` writes num_buffers, so it is not compared.
    """
    iovec = queue.iov[uint64(at)]
    if iovec["len"] < length or header != HEADER_MAX:
        scatter(queue, at, 0, packets, index, length)
        return
    there, here = iovec["base"], address_of(packets, index)
    if load_i64_at(there) != load_i64_at(here) or load_u16_at(there + 8) != load_u16_at(here + 8):
        copy_out(there, packets, index, HEADER_MAX - 2)
    copy_out(there + HEADER_MAX, packets, index + HEADER_MAX, length - HEADER_MAX)


@kernel(int64(QUEUE_T, NET_T, U8_T, I64_T, int64), inline=True)
def _write_packets(
    queue: Queue, net: Net, packets: NDArray[np.uint8], lengths: NDArray[np.int64], count: int
) -> int:
    """Copy as many of `count` packets as fit into held chains; return how many."""
    held = queue.state[0]
    header, mergeable = net.state[0]["cfg_header_size"], net.state[0]["cfg_mergeable"]
    place, end, at, room = held["head"], held["head"] + held["count"], held["first"], held["length"]
    done = int64(0)
    while done < count and place < end:
        if not mergeable:
            room = queue.chains[uint64(place & (CHAINS - 1))]["length"]
        rest = lengths[done]
        if room < rest:
            break
        _write_packet(queue, at, header, packets, FIRST + SPACING * done, rest)
        while rest > 0:
            chain = queue.chains[uint64(place & (CHAINS - 1))]
            at += chain["iovecs"]
            room -= chain["length"]
            rest -= chain["length"]
            place += 1
        done += 1
    return done


@kernel(int64(VRING_T, QUEUE_T, MEMORY_T, NET_T, U8_T, I64_T, int64))
def put(
    ring: Vring,
    queue: Queue,
    memory: Memory,
    net: Net,
    packets: NDArray[np.uint8],
    lengths: NDArray[np.int64],
    count: int,
) -> int:
    """Copy `count` packets, each with its header, into receive buffers; return how many fit.

    The burst is copied before any of it is given back. The driver's processor has the buffers'
    lines, and each write waits for its line. The processor asks for the lines of all writes that
    it holds back, some 64: with what is written to give a packet back in between, those are of few
    packets.
    """
    result = pop_avail(ring, memory, queue, count, _ANY_LENGTH)
    if queue.state[0]["count"] > 0:
        disable_notification(ring, memory, net)
    done = _write_packets(queue, net, packets, lengths, count)
    for i in range(done):
        complete(ring, queue, memory, net, lengths[i])
    flush_and_call(ring, memory, net)
    if result < 0:
        break_ring(ring, net, fault_of(result))
    return done


@kernel(void(PAIR_T, I64_T, U8_T, I64_T))
def serve(
    pair: Pair, mode: NDArray[np.int64], packets: NDArray[np.uint8], lengths: NDArray[np.int64]
) -> None:
    """Replace a port's `run`: do the work `mode[WANTED]` until `pair.stop` is set.

    `mode[DONE]` follows it when the former work is finished; two counts come behind.
    In RECEIVE it sends `packets` again and again, with new headers in each, as testpmd writes them
    in its txonly mode.
    """
    net = pair.net
    first = FIRST + net.state[0]["cfg_header_size"]
    while load_acquire(pair.stop, 0) == 0:
        now = load_relaxed(mode, WANTED)
        store_release(mode, DONE, now)
        if now == IDLE or not alive(pair.rx) or not alive(pair.tx):
            # As before a port's sleep: what comes next then refuses them.
            if alive(pair.rx):
                enable_notification(pair.rx, pair.rx_memory, net)
            if alive(pair.tx):
                enable_notification(pair.tx, pair.tx_memory, net)
            poll(address_of(pair.poll, 0), 0, _IDLE_MS)
            continue
        count = BURST
        if now != RECEIVE:
            count = take(pair.tx, pair.tx_queue, pair.tx_memory, net, packets, lengths)
        else:
            for i in range(1, count):
                copy_in(packets, first + SPACING * i, address_of(packets, first), FRAME_HEADERS)
        moved = count
        if now != SEND and count > 0:
            moved = put(pair.rx, pair.rx_queue, pair.rx_memory, net, packets, lengths, count)
            if now == LOOPBACK:
                net.counters[0]["rx_dropped_no_buffers"] += count - moved
        mode[LOOKS] += 1
        if moved == 0:
            mode[IN_VAIN] += 1
