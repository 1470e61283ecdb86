# SPDX-License-Identifier: Apache-2.0
"""Copies frames of the rings into a capture's memory (`jit/capture_ring.py`), if there is one.

Callers look at `cfg_capture` first, so that a frame costs one branch while nothing is captured. A
frame is recorded when its fate is known. What of it lies in guest memory is read once more for
that, so a guest that changes a frame meanwhile shows another than it sent. Nothing here waits:
without room for a record the frame is counted and left out. Whatever the reader writes, records
stay within the part: positions are kept in memory of this process's own.

Kernels here take addresses and not groups of arrays, which their callers would hold in registers
for them where nothing is captured as well.
"""

from __future__ import annotations

from errno import EIO

from ovs_vhost_plugin.jit import capture_ring
from ovs_vhost_plugin.jit.atomics import address_of, copy_across, load_i64_at, store_i64_at
from ovs_vhost_plugin.jit.capture_ring import RX, TX, Drop
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
    CAPTURE_DTYPE,
    IOVEC_DTYPE,
    NET_T,
    QUEUE_T,
    Net,
    Queue,
    int64,
    offsets,
    void,
)
from ovs_vhost_plugin.jit.result import fault_of, is_fault
from ovs_vhost_plugin.jit.ring.held import gather
from ovs_vhost_plugin.jit.syscalls import nanoseconds

# Numbers of their own, as kernels take constants
_HEAD, _TAIL, _LOST = capture_ring.HEAD, capture_ring.TAIL, capture_ring.LOST
_RECORDS, _ROOM = capture_ring.RECORDS, capture_ring.ROOM
_RECORD_HEAD, _HEADER = capture_ring.RECORD_HEAD, capture_ring.HEADER
_TIME, _WHAT, _LENGTH = capture_ring.TIME, capture_ring.WHAT, capture_ring.LENGTH
_CAPTURED, _LOST_SO_FAR = capture_ring.CAPTURED, capture_ring.LOST_SO_FAR
_DROP, _FAULT = capture_ring.DROP_SHIFT, capture_ring.FAULT_SHIFT
_HEADER_BYTES = capture_ring.HEADER_SHIFT
_FINISHED = 1 << capture_ring.FINISHED_SHIFT
_IOVEC_BYTES = IOVEC_DTYPE.itemsize
_DISABLED = Drop.TX_DROPPED_DISABLED << _DROP
_TAP_DOWN = Drop.TX_DROPPED_TAP_DOWN << _DROP
_TAP_REFUSED = Drop.TX_DROPPED_TAP_REFUSED << _DROP
_FAULTY = Drop.TX_DROPPED_FAULTY << _DROP
RECEIVED = RX
_PART, _DIRECTIONS, _SNAP, _OWN_HEAD, _TIMESPEC = offsets(
    CAPTURE_DTYPE, "part", "directions", "snap", "head", "seconds"
)
TOO_LONG = RX | Drop.RX_DROPPED_TOO_LONG << _DROP
NO_BUFFERS = RX | Drop.RX_DROPPED_NO_BUFFERS << _DROP
DISABLED = TX | _DISABLED


@kernel(int64(int64), inline=True)
def _fate(result: int) -> int:
    """The WHAT of a transmitted frame, by the result of sending it."""
    if result == 0:
        return TX
    if is_fault(result):
        return TX | _FAULTY | fault_of(result) << _FAULT
    return TX | (_TAP_DOWN if result == -EIO else _TAP_REFUSED)


@kernel(int64(int64, int64), inline=True)
def _captured(capture: int, length: int) -> int:
    """How many bytes of a frame are recorded."""
    return min(max(length, 0), int64(load_i64_at(capture + _SNAP)))


@kernel(int64(int64, int64, int64))
def _begin(capture: int, what: int, length: int) -> int:
    """Begin the record of a frame of `length` bytes: its address, or 0 for no record."""
    if what & load_i64_at(capture + _DIRECTIONS) == 0:
        return 0
    part, head = load_i64_at(capture + _PART), int64(load_i64_at(capture + _OWN_HEAD))
    captured = _captured(capture, length)
    size = _RECORD_HEAD + ((captured + 7) & -8)
    at = head % _ROOM
    skipped = _ROOM - at if at + size > _ROOM else 0
    used = head - load_i64_at(part + _TAIL)
    lost = load_i64_at(part + _LOST)
    if used < 0 or used > _ROOM - size - skipped:
        store_i64_at(part + _LOST, lost + 1)
        return 0
    record = part + _RECORDS + at
    if skipped > 0:
        store_i64_at(record, -skipped)
        record = part + _RECORDS
    store_i64_at(record, size)
    store_i64_at(record + _TIME, nanoseconds(capture + _TIMESPEC))
    store_i64_at(record + _WHAT, what)
    store_i64_at(record + _LENGTH, max(length, 0))
    store_i64_at(record + _CAPTURED, captured)
    store_i64_at(record + _HEADER, 0)
    store_i64_at(record + _HEADER + 8, 0)
    store_i64_at(record + _LOST_SO_FAR, lost)
    store_i64_at(capture + _OWN_HEAD, head + skipped + size)
    return int64(record)


@kernel(void(int64), inline=True)
def _publish(capture: int) -> None:
    """Let the reader see the records so far."""
    store_i64_at(load_i64_at(capture + _PART) + _HEAD, load_i64_at(capture + _OWN_HEAD))


@kernel(void(int64, int64, int64, int64), inline=True)
def _copy_iovecs(iov: int, skip: int, target: int, length: int) -> None:
    """Copy `length` bytes of the iovecs at an address, `skip` bytes in, to the address `target`."""
    while length > 0:
        base, size = load_i64_at(iov), load_i64_at(iov + 8)
        if skip < size:
            part = min(length, size - skip)
            copy_across(target, base + skip, part)
            target += part
            length -= part
            skip = 0
        else:
            skip -= size
        iov += _IOVEC_BYTES


@kernel(void(int64, int64, int64, int64, int64, int64))
def _record_bytes(capture: int, what: int, header: int, size: int, frame: int, length: int) -> None:
    """Record a frame at an address, whose header of `size` bytes is at another."""
    record = _begin(capture, what | size << _HEADER_BYTES, length)
    if record != 0:
        copy_across(record + _HEADER, header, size)
        copy_across(record + _RECORD_HEAD, frame, _captured(capture, length))
        _publish(capture)


@kernel(void(int64, int64, int64, int64, int64, int64))
def _record_iovecs(capture: int, what: int, header: int, size: int, iov: int, length: int) -> None:
    """Record a frame in the iovecs at an address; `header` 0: they begin with its header."""
    record = _begin(capture, what | size << _HEADER_BYTES, length)
    if record == 0:
        return
    if header != 0:
        copy_across(record + _HEADER, header, size)
        size = 0
    else:
        _copy_iovecs(iov, 0, record + _HEADER, size)
    _copy_iovecs(iov, size, record + _RECORD_HEAD, _captured(capture, length))
    _publish(capture)


@kernel(void(QUEUE_T, NET_T, int64, int64, int64), inline=True)
def capture_sent(queue: Queue, net: Net, result: int, at: int, length: int) -> None:
    """Record a transmitted frame, with `net.header`, by the result of sending it.

    It is in the iovecs from `at` on, or, if it was finished here, whole in `net.frame`.
    """
    state = net.state[0]
    header, size = address_of(net.header, 0), state["cfg_header_size"]
    if state["tx_headers"] != 0:
        frame, what = address_of(net.frame, 0), _fate(result) | _FINISHED
        _record_bytes(state["cfg_capture"], what, header, size, frame, length)
    else:
        iov = address_of(queue.iov, at)
        _record_iovecs(state["cfg_capture"], _fate(result), header, size, iov, length)


@kernel(void(QUEUE_T, NET_T, int64, int64), inline=True)
def capture_held(queue: Queue, net: Net, what: int, length: int) -> None:
    """Record header and frame, `length` bytes in all, in the oldest held chains."""
    size = min(net.state[0]["cfg_header_size"], length)
    iov = address_of(queue.iov, queue.state[0]["first"])
    _record_iovecs(net.state[0]["cfg_capture"], what, 0, size, iov, length - size)


@kernel(void(QUEUE_T, NET_T, int64, int64), inline=True)
def capture_faulty(queue: Queue, net: Net, result: int, length: int) -> None:
    """Record the oldest chain, whose header has been refused; its frame has `length` bytes."""
    if length <= 0:  # nothing was taken from it
        capture_held(queue, net, _fate(result), length + net.state[0]["cfg_header_size"])
    else:
        capture_sent(queue, net, result, queue.state[0]["first"], length)


@kernel(void(NET_T, int64, int64), inline=True)
def capture_pending(net: Net, what: int, length: int) -> None:
    """Record the header and frame in `pending`, `length` bytes in all."""
    size, header = net.state[0]["cfg_header_size"], address_of(net.pending, 0)
    frame = header + size
    _record_bytes(net.state[0]["cfg_capture"], what, header, size, frame, length - size)


@kernel(void(QUEUE_T, NET_T, int64), inline=True)
def capture_spilt(queue: Queue, net: Net, length: int) -> None:
    """Record a frame that is dropped, as the held chains were too short for its `length` bytes."""
    held = queue.state[0]
    gather(queue, held["first"], net.pending, 0, held["length"])
    capture_pending(net, TOO_LONG, length)
