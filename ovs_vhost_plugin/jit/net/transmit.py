# SPDX-License-Identifier: Apache-2.0
"""Guest to tap: each chain of the transmit ring becomes one frame, without a copy of its payload.

The virtio-net header is copied out and checked. The copy goes to the tap in its stead, followed by
the guest's own buffers. Where the bridge cannot take a frame with work left to do, the frame is
copied whole and finished first.
"""

from __future__ import annotations

from errno import EAGAIN, EFAULT, EINTR, EIO

from ovs_vhost_plugin.jit.atomics import address_of, copy_in
from ovs_vhost_plugin.jit.branch import unlikely
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
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
    int64,
    uint64,
    void,
)
from ovs_vhost_plugin.jit.net import fragment, offload
from ovs_vhost_plugin.jit.net.batch import LEAST, collect, drop_header
from ovs_vhost_plugin.jit.net.capture import (
    DISABLED,
    capture_faulty,
    capture_held,
    capture_sent,
)
from ovs_vhost_plugin.jit.net.learn import learn, take_head
from ovs_vhost_plugin.jit.result import failure, fault_of, is_fault
from ovs_vhost_plugin.jit.ring.held import gather
from ovs_vhost_plugin.jit.ring.iotlb import request_translation
from ovs_vhost_plugin.jit.ring.notify import break_ring, flush_and_call
from ovs_vhost_plugin.jit.ring.ring import (
    add_used,
    disable_notification,
    journal_abort,
    journal_begin,
    pop_avail,
)
from ovs_vhost_plugin.jit.syscalls import coarse_milliseconds, writev
from ovs_vhost_plugin.jit.uring import HEADER_AT, result_of, slot_at, submit

BURST = 64
"""Chains before the other direction has its turn."""
_ANY_LENGTH = 1 << 62


@kernel(int64(QUEUE_T, NET_T))
def _take_scattered_header(queue: Queue, net: Net) -> int:
    """Copy a header out of several iovecs. Returns the place of the frame's first."""
    size = net.state[0]["cfg_header_size"]
    at: int = queue.state[0]["first"]
    done = 0
    while done < size:
        iovec = queue.iov[at]
        part = min(iovec["len"], size - done)
        copy_in(net.header, done, iovec["base"], part)
        done += part
        iovec["base"] += part
        iovec["len"] -= part
        if iovec["len"] == 0:
            at += 1
    return at


@kernel(int64(QUEUE_T, NET_T), inline=True)
def take_header(queue: Queue, net: Net) -> int:
    """Copy the oldest chain's header out and point an iovec before the frame at the copy.

    Returns the place of the frame's first iovec, or a fault. The one before it held the header, or
    belonged to a chain that is done.
    """
    size = net.state[0]["cfg_header_size"]
    chain = queue.chains[uint64(queue.state[0]["head"])]
    if chain["length"] <= size:
        return failure(Fault.CHAIN_WITHOUT_FRAME)
    at: int = queue.state[0]["first"]
    iovec = queue.iov[uint64(at)]
    if iovec["len"] > HEADER_MAX:
        # As most drivers have it; a copy of fixed length needs no call.
        copy_in(net.header, 0, iovec["base"], HEADER_MAX)
        iovec["base"] += size
        iovec["len"] -= size
    else:
        at = _take_scattered_header(queue, net)
    result = offload.check_header(net.header, chain["length"] - size, net.state)
    if result < 0:
        return result
    before = queue.iov[uint64(at - 1)]
    before["base"] = address_of(net.header, 0)
    before["len"] = size
    return at


@kernel(int64(NET_T, int64, int64))
def write_frame(net: Net, iov: int, iovecs: int) -> int:
    """Write one frame to the tap: 0 if it went, else -errno."""
    fd = net.state[0]["cfg_tap_fd"]
    done = writev(fd, iov, iovecs)
    while done == -EINTR:
        done = writev(fd, iov, iovecs)
    return min(done, 0)


@kernel(int64(QUEUE_T, NET_T, int64), inline=True)
def _begin_finished(queue: Queue, net: Net, length: int) -> int:
    """Copy the frame at work and find the headers that its segments repeat: 0, or a fault."""
    state = net.state[0]
    at = state["tx_iovec"]
    gather(queue, at, net.frame, 0, length)
    if offload.is_ufo(net.header):
        headers = fragment.begin(net.header, net.frame, length)
        state["tx_fragment_id"] += 1
    elif offload.is_gso(net.header):
        headers = offload.all_headers(net.header, net.frame, length)
    else:
        offload.finish_checksum(net.header, net.frame, length)
        headers = length
    if headers < 0:
        return headers
    state["tx_headers"] = headers
    state["tx_position"] = 0
    queue.iov[at - 1]["base"] = address_of(net.gso_segment, 0)
    return 0


@kernel(int64(QUEUE_T, NET_T, int64), inline=True)
def _make_next_frame(queue: Queue, net: Net, length: int) -> int:
    """Make the next frame of the one at work and point the iovec behind the header at it.

    Returns how many bytes of payload it carries.
    """
    state = net.state[0]
    iovec = queue.iov[state["tx_iovec"]]
    if not offload.is_gso(net.header):
        iovec["base"] = address_of(net.frame, 0)
        iovec["len"] = length
        return 1
    headers, position = state["tx_headers"], state["tx_position"]
    payload = length - headers
    iovec["base"] = address_of(net.gso_segment, HEADER_MAX)
    if offload.is_ufo(net.header):
        identification = state["tx_fragment_id"]
        iovec["len"] = fragment.make_fragment(
            net.header, net.frame, headers, payload, position, identification, net.gso_segment
        )
        return fragment.step(net.header, payload)
    iovec["len"] = offload.make_gso_segment(
        net.header, net.frame, headers, payload, position, net.gso_segment
    )
    return offload.gso_size(net.header)


@kernel(int64(QUEUE_T, NET_T, int64))
def write_finished(queue: Queue, net: Net, length: int) -> int:
    """Write the frame at work, checksum, segments or fragments made here: 0, -errno, or a fault.

    After -EAGAIN it goes on where it was: the private copy stays.
    """
    state = net.state[0]
    if state["tx_headers"] == 0:
        result = _begin_finished(queue, net, length)
        if result < 0:
            return result
    while True:
        taken = _make_next_frame(queue, net, length)
        result = write_frame(net, address_of(queue.iov, state["tx_iovec"] - 1), 2)
        if result < 0:
            return result
        state["tx_position"] += taken
        if state["tx_position"] >= length - state["tx_headers"]:
            return 0


@kernel(void(QUEUE_T, NET_T, LEARNED_T, int64, int64, int64, int64, int64), inline=True)
def _count(
    queue: Queue, net: Net, learned: Learned, now: int, result: int, length: int, at: int, end: int
) -> None:
    """Count a frame of `length` bytes in iovecs [at, end) by its `result`.

    A frame that was sent is learned from afterwards: then its memory is known to be there.
    """
    counters = net.counters[0]
    if result == 0:
        counters["tx_packets"] += 1
        counters["tx_bytes"] += length
        learn(learned, learned.head, take_head(learned, queue, at, end), now)
    elif is_fault(result):
        counters["tx_dropped_faulty"] += 1
        net.faults[fault_of(result)] += 1
    elif result == -EIO:
        counters["tx_dropped_tap_down"] += 1
    else:
        counters["tx_dropped_tap_refused"] += 1


@kernel(int64(QUEUE_T, NET_T, LEARNED_T, int64), inline=True)
def send(queue: Queue, net: Net, learned: Learned, now: int) -> int:
    """Send the oldest chain's frame: the result.

    After -EAGAIN and -EFAULT it is still at work; otherwise it was sent (0) or dropped.
    """
    state = net.state[0]
    chain = queue.chains[uint64(queue.state[0]["head"])]
    length = chain["length"] - state["cfg_header_size"]
    if state["tx_iovec"] == 0:
        at = take_header(queue, net)
        if at < 0:
            net.counters[0]["tx_dropped_faulty"] += 1
            net.faults[fault_of(at)] += 1
            return at
        state["tx_iovec"] = at
    first = state["tx_iovec"]
    if offload.leaves_work(net.header) and offload.must_finish(net.header, length, net.state):
        result = write_finished(queue, net, length)
        end = first + 1  # the private copy
    else:
        end = queue.state[0]["first"] + chain["iovecs"]
        result = write_frame(net, address_of(queue.iov, first - 1), end - first + 1)
    if result != -EAGAIN and result != -EFAULT:
        _count(queue, net, learned, now, result, length, first, end)
    return result


@kernel(int64(QUEUE_T, NET_T, LEARNED_T, int64))
def send_and_capture(queue: Queue, net: Net, learned: Learned, now: int) -> int:
    """`send` while the port is captured, apart from it so that it costs nothing otherwise."""
    result = send(queue, net, learned, now)
    if result == -EAGAIN or result == -EFAULT:
        return result
    state = net.state[0]
    chain = queue.chains[uint64(queue.state[0]["head"])]
    length = chain["length"] - state["cfg_header_size"]
    if state["tx_iovec"] == 0:
        capture_faulty(queue, net, result, length)
    else:
        capture_sent(queue, net, result, state["tx_iovec"], length)
    return result


@kernel(int64(VRING_T, QUEUE_T, NET_T, LEARNED_T, int64, int64))
def send_batch(ring: Vring, queue: Queue, net: Net, learned: Learned, now: int, count: int) -> int:
    """Send the `count` frames in slots and give their chains back: 0, or the oldest one's -errno.

    If the tap says EAGAIN to a frame and then takes a later one, which no tap does, the frame is
    dropped: it must not come behind the later one.
    """
    batch, size = net.state[0]["cfg_batch"], net.state[0]["cfg_header_size"]
    submit(batch, count)
    went = count
    while went > 0 and result_of(batch, went - 1) == -EAGAIN:
        went -= 1
    for i in range(went):
        result = min(result_of(batch, i), 0)
        if result == -EFAULT:
            return -EFAULT
        chain = queue.chains[uint64(queue.state[0]["head"])]
        end = queue.state[0]["first"] + chain["iovecs"]
        at = drop_header(queue, size)
        if result == 0:
            net.counters[0]["tx_batched"] += 1
        length = chain["length"] - size
        _count(queue, net, learned, now, result, length, at, end)
        if unlikely(net.state[0]["cfg_capture"] != 0):
            copy_in(net.header, 0, slot_at(batch, i) + HEADER_AT, HEADER_MAX)
            capture_sent(queue, net, result, at, length)
        add_used(ring, queue, 0)
    return 0 if went == count else -EAGAIN


@kernel(int64(VRING_T, QUEUE_T, MEMORY_T, NET_T, LEARNED_T))
def transmit(ring: Vring, queue: Queue, memory: Memory, net: Net, learned: Learned) -> int:
    """One burst: how many chains were given back."""
    state = net.state[0]
    result = 0
    now = 0
    if state["tx_iovec"] == 0:  # else the frame at work is finished first, its iovecs stay in place
        result = pop_avail(ring, memory, queue, BURST, _ANY_LENGTH)
    held = queue.state[0]["count"]
    if held > 0:
        disable_notification(ring, memory, net)
        now = coarse_milliseconds(net.scratch)
    while queue.state[0]["count"] > 0:
        if ring.state[0]["enabled"]:
            count = int64(0)
            together = state["cfg_batch"] != 0 and queue.state[0]["count"] >= LEAST
            if together and state["tx_iovec"] == 0:
                count = collect(queue, net)
            if count > 0:
                journal_begin(ring, queue, count)
                sent = send_batch(ring, queue, net, learned, now, count)
            else:
                journal_begin(ring, queue, 1)
                if unlikely(state["cfg_capture"] != 0):
                    sent = send_and_capture(queue, net, learned, now)
                else:
                    sent = send(queue, net, learned, now)
            if sent == -EAGAIN:
                state["tx_tap_full"] = 1
                if state["tx_headers"] == 0 or state["tx_position"] == 0:
                    journal_abort(ring)  # no segment of it has gone
                break
            if sent == -EFAULT:
                result = failure(Fault.MEMORY_GONE)
                break
            if count > 0:
                continue
        else:
            # vhost-user "Ring states": started but disabled, it is processed and discarded
            net.counters[0]["tx_dropped_disabled"] += 1
            if unlikely(net.state[0]["cfg_capture"] != 0):
                oldest = queue.chains[uint64(queue.state[0]["head"])]
                capture_held(queue, net, DISABLED, oldest["length"])
        state["tx_iovec"] = 0
        state["tx_headers"] = 0
        add_used(ring, queue, 0)
    flush_and_call(ring, memory, net)
    if result < 0:
        result = request_translation(queue, net, result)
    if result < 0:
        break_ring(ring, net, fault_of(result))
    return int64(held - queue.state[0]["count"])
