# SPDX-License-Identifier: Apache-2.0
"""A flow of numbered datagrams at up to some 100,000 a second: its ends are kernels in threads.

What Python's own loops are too slow for, and would hold the lab's other threads up with. A datagram
is its number and zeros. The receiver counts how often each number has come.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Self

import numpy as np
from numba import types
from numpy.typing import NDArray

from ovs_vhost_plugin.jit.atomics import address_of, load_acquire
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import I64_T, U8_T, U64_T, int64, void
from ovs_vhost_plugin.jit.syscalls import readv, write
from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.measure.capture import SO_RCVBUFFORCE
from ovs_vhost_plugin.lab.process import wait_until

_ROOM = 1 << 26
"""Bytes of the receiver's socket buffer: all that a hold releases at once."""
_BURST = 16
"""Datagrams that go at once when late: a switch's packet socket has room for some 90."""
_SLEEP = 20
"""Microseconds, to which the kernel adds some 50."""
_QUIET = 0.5
"""Seconds without a datagram after which none is on its way any more."""

_usleep = types.ExternalFunction("usleep", types.int32(types.int32))
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.int64))
_MONOTONIC = 1


@kernel(int64(I64_T))
def _nanoseconds(scratch: NDArray[np.int64]) -> int:
    _clock_gettime(_MONOTONIC, address_of(scratch, 0))
    return int(scratch[0]) * 1_000_000_000 + int(scratch[1])


@kernel(void(int64, int64, U64_T, I64_T, I64_T, I64_T))
def _send(
    fd: int,
    interval: int,
    datagram: NDArray[np.uint64],
    sent: NDArray[np.int64],
    stop: NDArray[np.int64],
    scratch: NDArray[np.int64],
) -> None:
    """Send datagrams until `stop`, one each `interval` ns."""
    due = _nanoseconds(scratch)
    while load_acquire(stop, 0) == 0:
        for _ in range(_BURST):
            if _nanoseconds(scratch) < due:
                break
            datagram[0] = sent[0]
            if write(fd, address_of(datagram, 0), 8 * len(datagram)) > 0:
                sent[0] += 1
            due += interval
        _usleep(_SLEEP)


@kernel(void(int64, U8_T, I64_T, I64_T, I64_T))
def _receive(
    fd: int,
    times: NDArray[np.uint8],
    came: NDArray[np.int64],
    stop: NDArray[np.int64],
    scratch: NDArray[np.int64],
) -> None:
    """Count each number that comes, until `stop`; the socket has a time limit."""
    scratch[0] = address_of(scratch, 2)
    scratch[1] = 8
    while load_acquire(stop, 0) == 0:
        if readv(fd, address_of(scratch, 0), 1) == 8 and 0 <= scratch[2] < len(times):
            times[scratch[2]] += 1
            came[0] += 1


class PacedFlow:
    """`rate` datagrams a second between two namespaces, while the context lasts.

    source, destination   the sender's namespace; the receiver's, and its address and port
    most                  numbers that may be sent
    """

    def __init__(
        self,
        source: Namespace,
        destination: Namespace,
        address: tuple[str, int],
        rate: int,
        most: int,
        size: int = 64,
    ) -> None:
        self._receiver = destination.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _ROOM)
        timeout = np.array([0, 100_000], np.int64).tobytes()  # struct timeval
        self._receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        self._receiver.bind(address)
        self._sender = source.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sender.connect(address)
        self._sent, self._came = np.zeros(1, np.int64), np.zeros(1, np.int64)
        self._times = np.zeros(most, np.uint8)
        self._stops = [np.zeros(1, np.int64) for _ in range(2)]
        to, at = self._sender.fileno(), self._receiver.fileno()
        datagram, scratch = np.zeros(size // 8, np.uint64), [np.zeros(3, np.int64) for _ in "ab"]
        interval = 1_000_000_000 // rate
        work = (
            (_send, (to, interval, datagram, self._sent, self._stops[0], scratch[0])),
            (_receive, (at, self._times, self._came, self._stops[1], scratch[1])),
        )
        self._threads = [
            threading.Thread(target=target, args=args, daemon=True) for target, args in work
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for stop, thread in zip(self._stops, self._threads, strict=True):
            stop[0] = 1
            thread.join()
        self._sender.close()
        self._receiver.close()

    @property
    def sent(self) -> int:
        """The number of datagrams sent so far."""
        return int(self._sent[0])

    def pass_by(self, datagrams: int) -> None:
        """Return when so many more have been sent."""
        goal = self.sent + datagrams
        wait_until(lambda: self.sent >= goal, f"{datagrams} datagrams more")

    def end(self) -> None:
        """Send no more, and return when no more come."""
        self._stops[0][0] = 1
        self._threads[0].join()
        before = -1
        while before != int(self._came[0]) < self.sent:
            before = int(self._came[0])
            time.sleep(_QUIET)

    @property
    def lost(self) -> int:
        """The number of those sent that never came."""
        return int(np.count_nonzero(self._times[: self.sent] == 0))

    @property
    def twice(self) -> int:
        """The number of those that came more than once."""
        return int(np.count_nonzero(self._times > 1))
