# SPDX-License-Identifier: Apache-2.0
"""The system calls of reading frames from a tap: a readv for each, or an io_uring of readv.

No port reads by io_uring. Each read has a buffer of an ordinary frame's size, and one for the rest
behind it, as a port's has.
"""

from __future__ import annotations

import ctypes
import socket
import time

import numba
import numpy as np

from ovs_vhost_plugin.common import uring
from ovs_vhost_plugin.common.uring import SLOTS
from ovs_vhost_plugin.jit.layout import FRAME_MAX
from ovs_vhost_plugin.jit.syscalls import readv
from ovs_vhost_plugin.jit.uring import new_batch, put_count, put_iovec, slot_at, submit

QUEUED = 14 * SLOTS
"""Frames that wait in the tap, which has room for 1,000."""
_READV = 1  # linux/io_uring.h
_BUFFER = 1526
_IOVECS = 2


@numba.njit(nogil=True, _nrt=False)  # as the kernels: no reference counts
def _read_each(fd: int, iovecs: int, batches: int) -> None:
    for i in range(batches * SLOTS):
        readv(fd, slot_at(iovecs, i % SLOTS), _IOVECS)


@numba.njit(nogil=True, _nrt=False)
def _read_together(batch: int, batches: int) -> None:
    for _ in range(batches):
        submit(batch, SLOTS)


class TapReader:
    """Reads a tap that `wire`, a packet socket, fills."""

    def __init__(self, tap: int, wire: socket.socket) -> None:
        self._tap, self._wire = tap, wire
        self._ring = uring.Uring(SLOTS, _READV)
        self._batch, self._memory = new_batch(self._ring, tap)
        self._buffers = np.zeros((SLOTS, _BUFFER), np.uint8)
        self._rest = np.zeros((SLOTS, FRAME_MAX), np.uint8)
        self._at = int(self._batch.ctypes.data)
        for i in range(SLOTS):
            ctypes.c_uint8.from_address(
                self._ring.requests + uring.REQUEST_BYTES * i
            ).value = _READV
            put_iovec(slot_at(self._at, i), 0, self._buffers[i].ctypes.data, _BUFFER)
            put_iovec(slot_at(self._at, i), 1, self._rest[i].ctypes.data, FRAME_MAX)
            put_count(self._at, i, _IOVECS)

    def time(self, frame: bytes, together: bool) -> float:
        """Nanoseconds a frame of those that wait in the tap."""
        for _ in range(QUEUED):
            self._wire.send(frame)
        begin = time.perf_counter_ns()
        if together:
            _read_together(self._at, QUEUED // SLOTS)
        else:
            _read_each(self._tap, self._at, QUEUED // SLOTS)
        took = time.perf_counter_ns() - begin
        assert self._buffers[SLOTS - 1, 12 : 12 + len(frame)].tobytes() == frame
        self._buffers[:] = 0
        return took / QUEUED
