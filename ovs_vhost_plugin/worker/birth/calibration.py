# SPDX-License-Identifier: Apache-2.0
"""Finds out whether an io_uring pays on this machine, before the first worker is born.

What a system call costs differs by processor, kernel and mitigations: on an AMD EPYC an io_uring
takes a third off a tap's write, on an Intel Xeon nothing (docs/decisions/39-io-uring.md). So both
ways are timed by turns for some milliseconds, on a tap in a network namespace of its own.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import statistics
import struct
import time
from collections.abc import Callable
from contextlib import suppress

from ovs_vhost_plugin.common import process
from ovs_vhost_plugin.common.uring import SLOTS, WRITEV, Uring
from ovs_vhost_plugin.jit.layout import HEADER_MAX, Records
from ovs_vhost_plugin.jit.uring import (
    new_batch,
    put_count,
    put_iovec,
    result_of,
    slot_at,
    submit,
    write_singly,
)
from ovs_vhost_plugin.tap import device
from ovs_vhost_plugin.worker.birth.tapio import VARIABLE, TapIo

PAYS = 1.15
"""How many times as fast the writes alone must be, for a tenth of all that a frame costs."""
_ROUNDS = 31
_TAP = "calibration"
_TUNSETVNETHDRSZ, _TUNSETCARRIER = 0x400454D8, 0x400454E2
# To a MAC that is nobody's: the kernel drops it right behind the tap.
_FRAME = bytes(HEADER_MAX) + bytes.fromhex("025400000002025400000001") + b"\x88\xb5" + bytes(46)


def choose(wish: str) -> TapIo:
    """How workers write frames; `wish`: the value of `tapio.VARIABLE`. Forks a child to measure."""
    if wish == "off":
        return TapIo(together=False, words=f"writev ({VARIABLE}=off)")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os.write(writer, _measured().encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        found = told.read()
    os.waitpid(child, 0)
    try:
        ratio = float(found)
    except ValueError:
        return TapIo(together=False, words=f"writev (io_uring: {found or 'no answer'})")
    return judge(ratio, wish)


def judge(ratio: float, wish: str) -> TapIo:
    """The choice where an io_uring is `ratio` times as fast as writev."""
    measured = f"{ratio:.2f} times as fast as writev here"
    if wish == "on":
        return TapIo(together=True, words=f"io_uring ({VARIABLE}=on; {measured})")
    if ratio >= PAYS:
        return TapIo(together=True, words=f"io_uring ({measured})")
    return TapIo(together=False, words=f"writev (io_uring: {measured})")


def _measured() -> str:
    """The ratio, or why there is none."""
    try:
        uring = Uring(SLOTS, WRITEV)
        if _can_be_given(uring):
            return "this kernel lets others give a worker theirs"
        process.unshare(process.NEW_NET)
        return f"{_ratio(uring, _make_tap()):.3f}"
    except OSError as error:
        return error.strerror or str(error)


def _can_be_given(uring: Uring) -> bool:
    """Whether a socket takes an io_uring: a worker's front-end could send it one that does all.

    Linux refuses that since 6.7, and stable releases do since then.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            socket.send_fds(ours, [b"x"], [uring.fd])
        except OSError:
            return False
    return True


def _make_tap() -> int:
    """A tap that is up, in this namespace."""
    fd = device.make(_TAP)
    fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("=i", HEADER_MAX))
    fcntl.ioctl(fd, _TUNSETCARRIER, struct.pack("=i", 1))
    device.set_flags(_TAP, device.IFF_UP)
    return fd


def _ratio(uring: Uring, tap: int) -> float:
    batch, _memory = new_batch(uring, tap)
    frame = ctypes.create_string_buffer(_FRAME, len(_FRAME))
    at, begin = int(batch.ctypes.data), ctypes.addressof(frame)
    for index in range(SLOTS):
        put_iovec(slot_at(at, index), 0, begin, HEADER_MAX)
        put_iovec(slot_at(at, index), 1, begin + HEADER_MAX, len(_FRAME) - HEADER_MAX)
        put_count(at, index, 2)
    _time(submit, batch), _time(write_singly, batch)
    ratios = [_time(write_singly, batch) / _time(submit, batch) for _ in range(_ROUNDS)]
    return statistics.median(ratios)


def _time(write: Callable[[int, int], None], batch: Records) -> int:
    """Nanoseconds for a batch. Raises OSError if a frame does not go."""
    at = int(batch.ctypes.data)
    begin = time.perf_counter_ns()
    write(at, SLOTS)
    took = time.perf_counter_ns() - begin
    result = min(result_of(at, index) for index in range(SLOTS))
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return took
