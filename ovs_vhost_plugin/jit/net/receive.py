# SPDX-License-Identifier: Apache-2.0
"""Tap to guest: each frame is read straight into buffers of the receive ring.

A frame's length is unknown until it has been read. So the read gets as many chains as the largest
frame takes, and behind them a private spill buffer. A frame that finds too few buffers ends there:
it is kept whole, and waits for more (5.1.6.4). With mergeable buffers a frame takes the chains it
needs, without them exactly one.
"""

from __future__ import annotations

from errno import EAGAIN, EFAULT, EINTR

from ovs_vhost_plugin.jit.atomics import address_of, copy_out, fence, load_u16_at
from ovs_vhost_plugin.jit.branch import unlikely
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
    BACKLOG_LENGTH,
    CHAINS,
    FRAME_MAX,
    HEADER_MAX,
    LEARNED_T,
    MEMORY_T,
    NET_T,
    QUEUE_T,
    VRING_T,
    Learned,
    Memory,
    Net,
    Queue,
    Vring,
    boolean,
    int64,
    uint64,
    void,
)
from ovs_vhost_plugin.jit.net.capture import (
    NO_BUFFERS,
    RECEIVED,
    TOO_LONG,
    capture_held,
    capture_pending,
    capture_spilt,
)
from ovs_vhost_plugin.jit.net.overhear import hear, overhear, to_group
from ovs_vhost_plugin.jit.recovery.journal import MOST_ENTRIES
from ovs_vhost_plugin.jit.result import failure, fault_of
from ovs_vhost_plugin.jit.ring.dirty import mark
from ovs_vhost_plugin.jit.ring.held import IOVECS_FULL, gather, scatter
from ovs_vhost_plugin.jit.ring.iotlb import request_translation
from ovs_vhost_plugin.jit.ring.notify import break_ring, flush_and_call
from ovs_vhost_plugin.jit.ring.ring import add_used, disable_notification, pop_avail
from ovs_vhost_plugin.jit.syscalls import milliseconds, readv

BURST = 64
"""Frames before the other direction has its turn."""
PATIENCE = 1000
"""Milliseconds that a frame waits for buffers while smaller ones could have passed."""
_NUM_BUFFERS = 10  # offset in the header (5.1.6.1)
_FLAGS = 0


@kernel(void(QUEUE_T, MEMORY_T, NET_T, int64), inline=True)
def mark_written(queue: Queue, memory: Memory, net: Net, length: int) -> None:
    """Log `length` bytes written from the oldest held iovec on."""
    if len(memory.log) == 0:
        return
    fence()
    at = queue.state[0]["first"]
    while length > 0:
        part = min(length, queue.iov[at]["len"])
        mark(memory, net, queue.guest[at], part)
        length -= part
        at += 1


@kernel(void(QUEUE_T, NET_T, int64), inline=True)
def _finish_header(queue: Queue, net: Net, buffers: int) -> None:
    """Finish the header in the oldest held chain, of a frame in `buffers` chains.

    The tap leaves num_buffers out; it is 1 without mergeable buffers (5.1.6.4.1). Flags are 0 where
    GUEST_CSUM was not negotiated: the tap says DATA_VALID whether asked or not.
    """
    has_buffers = net.state[0]["cfg_header_size"] > _NUM_BUFFERS
    no_flags = net.state[0]["cfg_guest_csum"] == 0
    net.patch[0] = buffers & 0xFF
    net.patch[1] = buffers >> 8
    at = queue.state[0]["first"]
    iovec = queue.iov[uint64(at)]
    if iovec["len"] >= HEADER_MAX:
        # As most drivers have it; a copy of fixed length needs no call. What is there already is
        # not written, which would take the line from the driver's processor.
        header = iovec["base"]
        if has_buffers and load_u16_at(header + _NUM_BUFFERS) != buffers:
            copy_out(header + _NUM_BUFFERS, net.patch, 0, 2)
        if no_flags and load_u16_at(header + _FLAGS) & 0xFF != 0:
            copy_out(header + _FLAGS, net.patch, 2, 1)
        return
    if has_buffers:
        scatter(queue, at, _NUM_BUFFERS, net.patch, 0, 2)
    if no_flags:
        scatter(queue, at, _FLAGS, net.patch, 2, 1)


@kernel(void(VRING_T, QUEUE_T, MEMORY_T, NET_T, int64), inline=True)
def complete(ring: Vring, queue: Queue, memory: Memory, net: Net, length: int) -> None:
    """Give back the chains that now hold a header and frame of `length` bytes in all."""
    held = queue.state[0]
    state = net.state[0]
    rest = length - queue.chains[uint64(held["head"])]["length"]
    buffers = 1
    while rest > 0:
        rest -= queue.chains[(held["head"] + buffers) & (CHAINS - 1)]["length"]
        buffers += 1
    _finish_header(queue, net, buffers)
    mark_written(queue, memory, net, length)
    if unlikely(net.state[0]["cfg_capture"] != 0):
        capture_held(queue, net, RECEIVED, length)
    rest = length
    for _ in range(buffers):
        written = min(rest, queue.chains[uint64(held["head"])]["length"])
        add_used(ring, queue, written)
        rest -= written
    net.counters[0]["rx_packets"] += 1
    net.counters[0]["rx_bytes"] += length - state["cfg_header_size"]


@kernel(int64(QUEUE_T, NET_T))
def read_frame(queue: Queue, net: Net) -> int:
    """Read a frame into all held iovecs and, behind them, the spill buffer: bytes or -errno.

    The spilt bytes land in `pending` at their offset in the whole frame.
    """
    held = queue.state[0]
    first, end = held["first"], held["end"]
    spill = len(net.pending) - held["length"]
    if spill > 0:
        queue.iov[end]["base"] = address_of(net.pending, held["length"])
        queue.iov[end]["len"] = spill
        end += 1
    return readv(net.state[0]["cfg_tap_fd"], address_of(queue.iov, first), end - first)


@kernel(void(QUEUE_T, MEMORY_T, NET_T, int64))
def spill(queue: Queue, memory: Memory, net: Net, length: int) -> None:
    """Keep a frame that the held chains were too short for, or drop it if more cannot help."""
    held = queue.state[0]
    mark_written(queue, memory, net, held["length"])
    if not net.state[0]["cfg_mergeable"]:
        net.counters[0]["rx_dropped_too_long"] += 1
        if unlikely(net.state[0]["cfg_capture"] != 0):
            capture_spilt(queue, net, length)
        return
    gather(queue, held["first"], net.pending, 0, held["length"])
    net.state[0]["rx_pending"] = length
    net.state[0]["rx_pending_until"] = milliseconds(net.scratch) + PATIENCE


@kernel(boolean(VRING_T, QUEUE_T, MEMORY_T, NET_T, LEARNED_T, boolean))
def deliver_pending(
    ring: Vring, queue: Queue, memory: Memory, net: Net, learned: Learned, full: bool
) -> bool:
    """Deliver the waiting frame or give it up: False if it is to wait on.

    `full`: no more buffers can be held.
    """
    held = queue.state[0]
    state = net.state[0]
    length = state["rx_pending"]
    if held["length"] >= length:
        scatter(queue, held["first"], 0, net.pending, 0, length)
        if net.pending[state["cfg_header_size"]] & 1:
            hear(learned, net.pending, state["cfg_header_size"], length)
        complete(ring, queue, memory, net, length)
    elif full or held["count"] >= (ring.state[0]["size"] if state["cfg_mergeable"] else 1):
        net.counters[0]["rx_dropped_too_long"] += 1
        if unlikely(net.state[0]["cfg_capture"] != 0):
            capture_pending(net, TOO_LONG, length)
    elif milliseconds(net.scratch) >= state["rx_pending_until"]:
        # A driver that refills late may never offer enough: the frames behind shall not wait too.
        net.counters[0]["rx_dropped_no_buffers"] += 1
        if unlikely(net.state[0]["cfg_capture"] != 0):
            capture_pending(net, NO_BUFFERS, length)
    else:
        return False
    state["rx_pending"] = 0
    return True


@kernel(void(NET_T))
def take_backlog(net: Net) -> None:
    """Make the backlog's next frame the one that waits, under a header that asks for nothing."""
    state = net.state[0]
    header = state["cfg_header_size"]
    at = state["rx_backlog_at"]
    length = (
        int64(net.backlog[at]) | int64(net.backlog[at + 1]) << 8 | int64(net.backlog[at + 2]) << 16
    )
    at += BACKLOG_LENGTH
    for i in range(header):
        net.pending[i] = 0
    for i in range(length):
        net.pending[header + i] = net.backlog[at + i]
    state["rx_backlog_at"] = at + length
    state["rx_pending"] = header + length
    state["rx_pending_until"] = milliseconds(net.scratch) + PATIENCE


@kernel(int64(VRING_T, QUEUE_T, MEMORY_T, NET_T, LEARNED_T))
def receive(ring: Vring, queue: Queue, memory: Memory, net: Net, learned: Learned) -> int:
    """One burst: how many frames were dealt with."""
    state = net.state[0]
    held = queue.state[0]
    chains = CHAINS if state["cfg_mergeable"] else 1
    result = 0
    done = 0
    while done < BURST and ring.state[0]["unflushed"] <= MOST_ENTRIES - CHAINS:
        if not state["rx_pending"] and state["rx_backlog_at"] < state["rx_backlog_end"]:
            take_backlog(net)
        wanted = state["rx_pending"]
        if wanted == 0:
            wanted = state["cfg_header_size"] + FRAME_MAX
        result = pop_avail(ring, memory, queue, chains, wanted)
        if result < 0:
            result = request_translation(queue, net, result)
        if result < 0:
            break
        if held["count"] > 0:
            disable_notification(ring, memory, net)
        if state["rx_pending"]:
            if not deliver_pending(ring, queue, memory, net, learned, result == IOVECS_FULL):
                break
        elif held["count"] == 0:
            break
        else:
            length = read_frame(queue, net)
            if length == -EAGAIN or length == -EINTR:
                break
            if length == -EFAULT:
                result = failure(Fault.MEMORY_GONE)
                break
            if length < state["cfg_header_size"]:
                state["rx_tap_lost"] = 1
                break
            if length > held["length"]:
                spill(queue, memory, net, length)
            else:
                if length > state["cfg_header_size"] and to_group(queue, net, learned):
                    overhear(queue, net, learned, length)
                complete(ring, queue, memory, net, length)
        done += 1
    flush_and_call(ring, memory, net)
    if result < 0:
        break_ring(ring, net, fault_of(result))
    return done
