# SPDX-License-Identifier: Apache-2.0
"""Several frames are written to the tap in one system call, by an io_uring (`common/uring.py`).

The kernel carries requests out in their order, inside io_uring_enter(2), as a tap's write does not
wait: nothing is in flight when `submit` returns. Each slot has a request, a writev of its iovecs,
that is made once. Only the number of iovecs changes.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from errno import EAGAIN

import numpy as np

from ovs_vhost_plugin.common.uring import COMPLETION_BYTES, REQUEST_BYTES, SLOTS, WRITEV, Uring
from ovs_vhost_plugin.jit.atomics import load_i32_at, load_i64_at, store_i32_at, store_i64_at
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import Records, int64, offsets, record, void
from ovs_vhost_plugin.jit.syscalls import io_uring_enter, writev

IOVECS = 4
"""Iovecs of a slot: the virtio-net header, and those of the frame."""

BATCH_DTYPE = record(
    "fd",  # of the io_uring
    "order",  # address of the array of submissions
    "order_mask",  # its entries - 1
    "sq_tail",  # addresses of 32-bit words: behind the last submission
    "cq_head",  # the first completion
    "cq_tail",  # behind the last completion
    "requests",  # address of the array of struct io_uring_sqe
    "completions",  # address of the array of struct io_uring_cqe
    "completion_mask",  # its entries - 1
    "slots",  # address of the SLOTS slots
    "tap_fd",
)
"""The io_uring of a queue pair, whose state has the record's address."""

HEADER_AT = 16 * IOVECS
"""Offset of the header in a slot, behind its iovecs."""
_RESULT_AT = HEADER_AT + 16
_COUNT_AT = _RESULT_AT + 8
_SLOT_BYTES = 128

_FD, _ORDER, _ORDER_MASK, _SQ_TAIL = offsets(BATCH_DTYPE, "fd", "order", "order_mask", "sq_tail")
_CQ_HEAD, _CQ_TAIL, _REQUESTS = offsets(BATCH_DTYPE, "cq_head", "cq_tail", "requests")
_COMPLETIONS, _COMPLETION_MASK = offsets(BATCH_DTYPE, "completions", "completion_mask")
_SLOTS, _TAP_FD = offsets(BATCH_DTYPE, "slots", "tap_fd")

# struct io_uring_sqe: opcode, flags, ioprio, fd, off, addr, len, rw_flags, user_data
_REQUEST = struct.Struct("=BBHiQQIIQ")
_REQUEST_LEN = 24  # offset
_NO_OFFSET = (1 << 64) - 1
_RWF_NOWAIT = 8
_COMPLETION_RES = 8  # offset; user_data is first
_GETEVENTS = 1
_INDEX = 0xFFFF_FFFF


def new_batch(uring: Uring, tap_fd: int) -> tuple[Records, mmap.mmap]:
    """A (1,) BATCH_DTYPE for the tap queue `tap_fd`, and the memory of its slots.

    Both are to be kept, and `uring` too. `uring` has SLOTS entries, for WRITEV.
    """
    memory = mmap.mmap(-1, _SLOT_BYTES * SLOTS, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    slots = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    batch = np.zeros(1, BATCH_DTYPE)
    values = {
        "fd": uring.fd,
        "order_mask": uring.entries - 1,
        "completion_mask": uring.most_completions - 1,
        "slots": slots,
        "tap_fd": tap_fd,
    }
    for name in ("order", "sq_tail", "cq_head", "cq_tail", "requests", "completions"):
        values[name] = getattr(uring, name)
    for name, value in values.items():
        batch[name] = value
    for i in range(SLOTS):
        # Without RWF_NOWAIT a request to a full tap would stay with the kernel, whatever the tap's
        # own flags are.
        at = slots + _SLOT_BYTES * i
        request = _REQUEST.pack(WRITEV, 0, 0, tap_fd, _NO_OFFSET, at, 0, _RWF_NOWAIT, i)
        ctypes.memmove(uring.requests + REQUEST_BYTES * i, request, len(request))
    return batch, memory


@kernel(int64(int64, int64), inline=True)
def slot_at(batch: int, index: int) -> int:
    """The address of a slot."""
    return int64(load_i64_at(batch + _SLOTS) + _SLOT_BYTES * index)


@kernel(void(int64, int64, int64, int64), inline=True)
def put_iovec(slot: int, index: int, base: int, length: int) -> None:
    """Set an iovec of the slot at an address."""
    store_i64_at(slot + 16 * index, base)
    store_i64_at(slot + 16 * index + 8, length)


@kernel(void(int64, int64, int64), inline=True)
def put_count(batch: int, index: int, iovecs: int) -> None:
    """Set how many iovecs slot `index` has."""
    store_i64_at(slot_at(batch, index) + _COUNT_AT, iovecs)
    request = load_i64_at(batch + _REQUESTS) + REQUEST_BYTES * index
    store_i32_at(request + _REQUEST_LEN, iovecs)


@kernel(int64(int64, int64), inline=True)
def result_of(batch: int, index: int) -> int:
    """The result of the frame in slot `index`: its bytes, or -errno."""
    return int64(load_i64_at(slot_at(batch, index) + _RESULT_AT))


@kernel(int64(int64), inline=True)
def _take_completions(batch: int) -> int:
    """Keep the results that are there; return how many."""
    head = int64(load_i32_at(load_i64_at(batch + _CQ_HEAD)))
    tail = int64(load_i32_at(load_i64_at(batch + _CQ_TAIL)))
    came = (tail - head) & _INDEX
    first, mask = load_i64_at(batch + _COMPLETIONS), load_i64_at(batch + _COMPLETION_MASK)
    for i in range(came):
        completion = first + COMPLETION_BYTES * ((head + i) & mask)
        result = int64(load_i32_at(completion + _COMPLETION_RES))
        store_i64_at(slot_at(batch, load_i64_at(completion)) + _RESULT_AT, result)
    store_i32_at(load_i64_at(batch + _CQ_HEAD), tail)
    return came


@kernel(void(int64, int64))
def submit(batch: int, count: int) -> None:
    """Write the frames of the first `count` slots, in order; `result_of` has what became of each.

    A frame that the kernel did not take has the result -EAGAIN, and those behind it as well.
    """
    fd, sq_tail = load_i64_at(batch + _FD), load_i64_at(batch + _SQ_TAIL)
    order, mask = load_i64_at(batch + _ORDER), load_i64_at(batch + _ORDER_MASK)
    tail = int64(load_i32_at(sq_tail))
    for i in range(count):
        store_i32_at(order + 4 * ((tail + i) & mask), i)
        store_i64_at(slot_at(batch, i) + _RESULT_AT, -EAGAIN)
    store_i32_at(sq_tail, tail + count)
    taken = max(0, io_uring_enter(fd, count, 0, 0))
    came = _take_completions(batch)
    while came < taken:  # an error may come a moment after the call
        io_uring_enter(fd, 0, taken - came, _GETEVENTS)
        came += _take_completions(batch)
    store_i32_at(sq_tail, tail + taken)


@kernel(void(int64, int64))
def write_singly(batch: int, count: int) -> None:
    """Write the frames of the first `count` slots, each by its own system call: to compare."""
    fd = load_i64_at(batch + _TAP_FD)
    for i in range(count):
        slot = slot_at(batch, i)
        store_i64_at(slot + _RESULT_AT, writev(fd, slot, load_i64_at(slot + _COUNT_AT)))
