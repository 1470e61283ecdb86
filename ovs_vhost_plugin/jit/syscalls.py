# SPDX-License-Identifier: Apache-2.0
"""The loop's system calls, callable from kernels; an error is returned as -errno.

libc's functions are linked by name, which costs nothing and can be cached on disk. Kick fds come
from a peer, which may make them blocking at any time. So preadv2 with RWF_NOWAIT, which never
blocks, reads them.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from ovs_vhost_plugin.jit.atomics import address_of, load_i32_at, load_i64_at
from ovs_vhost_plugin.jit.kernel import JIT, kernel
from ovs_vhost_plugin.jit.layout import I64_T, int64

_CLOCK_MONOTONIC = 1
_CLOCK_MONOTONIC_COARSE = 6
_RWF_NOWAIT = 8
_IO_URING_ENTER = 426  # asm-generic/unistd.h; libc has no function for it

# Pointers and sizes as int64: our addresses are numbers.
_CTYPES = {types.int32: ctypes.c_int32, types.int64: ctypes.c_int64}


def _libc(name: str, result: Any, *arguments: Any) -> Any:
    if JIT:
        return types.ExternalFunction(name, result(*arguments))
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    function.restype = _CTYPES[result]
    function.argtypes = [_CTYPES[argument] for argument in arguments]
    return function


_i32, _i64 = types.int32, types.int64
_readv = _libc("readv", _i64, _i32, _i64, _i32)
_writev = _libc("writev", _i64, _i32, _i64, _i32)
_write = _libc("write", _i64, _i32, _i64, _i64)
_preadv2 = _libc("preadv2", _i64, _i32, _i64, _i32, _i64, _i32)
_poll = _libc("poll", _i32, _i64, _i64, _i32)
_clock_gettime = _libc("clock_gettime", _i32, _i32, _i64)
_syscall = _libc("syscall", _i64, *[_i64] * 7)
_errno_location = _libc("__errno_location", _i64)


# Some calls need a private int64[6]: an iovec, the number read, the number written, a timespec.


@kernel(int64())
def _compiled_errno() -> int:
    return int64(load_i32_at(_errno_location()))


# ctypes swaps errno away before Python code can read its location
_errno = _compiled_errno if JIT else ctypes.get_errno


@kernel(int64(int64, int64, int64))
def readv(fd: int, iov: int, count: int) -> int:
    """Read into `count` iovecs at address `iov`; return bytes or -errno."""
    done = _readv(fd, iov, count)
    return done if done >= 0 else -_errno()


@kernel(int64(int64, int64, int64))
def writev(fd: int, iov: int, count: int) -> int:
    """Write from `count` iovecs at address `iov`; return bytes or -errno."""
    done = _writev(fd, iov, count)
    return done if done >= 0 else -_errno()


@kernel(int64(int64, int64, int64))
def write(fd: int, address: int, length: int) -> int:
    """Write `length` bytes at `address`; return bytes or -errno."""
    done = _write(fd, address, length)
    return done if done >= 0 else -_errno()


@kernel(int64(int64, int64, int64))
def poll(fds: int, count: int, timeout: int) -> int:
    """Poll `count` pollfds at `fds` for `timeout` ms (-1: for ever); return the ready or -errno."""
    ready = _poll(fds, count, timeout)
    return ready if ready >= 0 else -_errno()


@kernel(int64(int64, int64, int64, int64))
def io_uring_enter(fd: int, submit: int, wait: int, flags: int) -> int:
    """Submit `submit` requests and wait for `wait` completions; return the submitted or -errno."""
    done = _syscall(_IO_URING_ENTER, fd, submit, wait, flags, 0, 0)
    return done if done >= 0 else -_errno()


@kernel(int64(int64, I64_T))
def read_event(fd: int, scratch: NDArray[np.int64]) -> int:
    """Reset an eventfd without blocking; return 8 or -errno."""
    scratch[0] = address_of(scratch, 2)
    scratch[1] = 8
    done = _preadv2(fd, address_of(scratch, 0), 1, -1, _RWF_NOWAIT)
    return done if done >= 0 else -_errno()


@kernel(int64(int64, I64_T))
def write_event(fd: int, scratch: NDArray[np.int64]) -> int:
    """Add 1 to an eventfd; return 8 or -errno."""
    scratch[3] = 1
    return write(fd, address_of(scratch, 3), 8)


@kernel(int64(I64_T))
def milliseconds(scratch: NDArray[np.int64]) -> int:
    """CLOCK_MONOTONIC in ms."""
    _clock_gettime(_CLOCK_MONOTONIC, address_of(scratch, 4))
    return int(scratch[4]) * 1000 + int(scratch[5]) // 1_000_000


@kernel(int64(I64_T))
def coarse_milliseconds(scratch: NDArray[np.int64]) -> int:
    """CLOCK_MONOTONIC in ms as of the kernel's last tick: some ms behind, at a third the cost."""
    _clock_gettime(_CLOCK_MONOTONIC_COARSE, address_of(scratch, 4))
    return int(scratch[4]) * 1000 + int(scratch[5]) // 1_000_000


@kernel(int64(int64))
def nanoseconds(timespec: int) -> int:
    """CLOCK_MONOTONIC in ns; needs the address of a struct timespec."""
    _clock_gettime(_CLOCK_MONOTONIC, timespec)
    return int64(load_i64_at(timespec) * 1_000_000_000 + load_i64_at(timespec + 8))
