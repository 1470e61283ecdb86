# SPDX-License-Identifier: Apache-2.0
"""Steps through a function instruction by instruction: counts them, or keeps each state of memory.

The function runs in a fork of this process. Two MARKERs that it raises enclose what is stepped
through: at the first, the processor's trap flag is set, and it is cleared at the second. In between
the processor raises SIGTRAP after each instruction (AMD64 manual 2, 13.1.4), and a compiled handler
looks. So the count is exact, and the same on a busy machine, in a virtual machine and without
performance counters. The kernel's work in a system call is not counted; the instruction that makes
the call is one. It does not trap, as Linux clears the flag for itself. Only libc makes these calls,
and the instruction behind, which does, looks at the result.

A debugger's ptrace(2) would switch between two processes at each instruction: twice the time.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import signal
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numba import cfunc, types

from ovs_vhost_plugin.jit.atomics import load_i64_at, load_u16_at, store_i64_at

MARKER = signal.SIGUSR1

_TRAP_FLAG = 1 << 8
# offsets in ucontext_t on x86-64: uc_stack.ss_sp, uc_mcontext.gregs[REG_RIP] and [REG_EFL]
_STACK_AT, _NEXT_AT, _FLAGS_AT = 16, 40 + 8 * 16, 40 + 8 * 17
_SYSCALL = 0x050F  # the instruction, read as a number
_SA_SIGINFO, _SA_ONSTACK = 4, 0x08000000
_FIONREAD = 0x541B

# The record, of int64, lies at the low end of the handlers' stack: all that they are told.
_MARKERS, _STEPS, _PIPE, _WAITING, _LOG, _LAST, _END, _FULL, _PARTS, _FIRST_PART = range(0, 80, 8)
_RECORD, _STACK = 4096, 64 * 1024
_LOG_BYTES = 1 << 26

_memcmp = types.ExternalFunction("memcmp", types.int32(types.int64, types.int64, types.int64))
_memcpy = types.ExternalFunction("memcpy", types.int64(types.int64, types.int64, types.int64))
_ioctl = types.ExternalFunction("ioctl", types.int32(types.int32, types.int64, types.int64))
_handler = cfunc(types.void(types.int32, types.int64, types.int64), cache=True, _nrt=False)


@_handler
def _mark(_signal, _info, context):  # type: ignore[no-untyped-def]
    record = load_i64_at(context + _STACK_AT)
    store_i64_at(record + _MARKERS, load_i64_at(record + _MARKERS) + 1)
    store_i64_at(context + _FLAGS_AT, load_i64_at(context + _FLAGS_AT) ^ _TRAP_FLAG)


@_handler
def _step(_signal, _info, context):  # type: ignore[no-untyped-def]
    record = load_i64_at(context + _STACK_AT)
    calls = load_u16_at(load_i64_at(context + _NEXT_AT)) == _SYSCALL
    store_i64_at(record + _STEPS, load_i64_at(record + _STEPS) + (2 if calls else 1))
    parts = load_i64_at(record + _PARTS)
    if parts == 0:
        return
    pipe = load_i64_at(record + _PIPE)
    if pipe >= 0:
        _ioctl(pipe, _FIONREAD, record + _WAITING)
    # An entry of the log: what waits in the pipe, then all parts.
    last, end = load_i64_at(record + _LAST), load_i64_at(record + _LOG)
    same = last != 0 and load_i64_at(last) == load_i64_at(record + _WAITING)
    at, part = last + 8, record + _FIRST_PART
    for _ in range(parts):
        address, length = load_i64_at(part), load_i64_at(part + 8)
        same = same and _memcmp(at, address, length) == 0
        at, part = at + length, part + 16
    if same:
        return
    if end + at - last > load_i64_at(record + _END):
        store_i64_at(record + _FULL, 1)
        return
    store_i64_at(end, load_i64_at(record + _WAITING))
    at, part = end + 8, record + _FIRST_PART
    for _ in range(parts):
        address, length = load_i64_at(part), load_i64_at(part + 8)
        _memcpy(at, address, length)
        at, part = at + length, part + 16
    store_i64_at(record + _LAST, end)
    store_i64_at(record + _LOG, at)


class _Sigaction(ctypes.Structure):  # sigaction(2), as in libc
    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_byte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class _Stack(ctypes.Structure):  # sigaltstack(2)
    _fields_ = (("base", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_libc = ctypes.CDLL(None, use_errno=True)


def count(function: Callable[[], None]) -> int:
    """Instructions that `function` executes between its two MARKERs.

    Raises RuntimeError unless it returns after exactly two.
    """
    steps, _ = _stepped(function, [], -1)
    return steps


def states(
    function: Callable[[], None], parts: Sequence[np.ndarray], pipe: int = -1
) -> Iterator[tuple[bytes, int]]:
    """Each state after an instruction that differs from the one before.

    A state is the bytes of `parts`, one behind the other, and how many bytes wait in `pipe`.
    """
    _, log = _stepped(function, parts, pipe)
    size = 8 + sum(part.nbytes for part in parts)
    for at in range(0, len(log), size):
        yield log[at + 8 : at + size], int.from_bytes(log[at : at + 4], "little")


def _stepped(
    function: Callable[[], None], parts: Sequence[np.ndarray], pipe: int
) -> tuple[int, bytes]:
    """The number of instructions, and the log. `function` runs in a fork: of one thread."""
    if platform.machine() != "x86_64":
        raise RuntimeError("the trap flag is x86-64's")
    shared = np.frombuffer(mmap.mmap(-1, _RECORD + _STACK), np.int64)
    log = np.frombuffer(mmap.mmap(-1, _LOG_BYTES if parts else mmap.PAGESIZE), np.uint8)
    record = shared[: _RECORD // 8]
    begin = log.ctypes.data
    record[_PIPE // 8], record[_PARTS // 8] = pipe, len(parts)
    record[_LOG // 8], record[_END // 8] = begin, begin + log.nbytes
    places = [number for part in parts for number in (part.ctypes.data, part.nbytes)]
    record[_FIRST_PART // 8 :][: len(places)] = places
    child = os.fork()
    if child == 0:
        _run(function, shared)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise RuntimeError(f"the function got {signal.Signals(os.WTERMSIG(status)).name}")
    if status or record[_MARKERS // 8] != 2:
        raise RuntimeError("the function did not return after two markers")
    if record[_FULL // 8]:
        raise RuntimeError("the function passes through more states than are kept")
    return int(record[_STEPS // 8]), log[: record[_LOG // 8] - begin].tobytes()


def _run(function: Callable[[], None], shared: np.ndarray) -> None:
    status = 1
    try:
        stack = _Stack(shared.ctypes.data, 0, shared.nbytes)
        _check(_libc.sigaltstack(ctypes.byref(stack), None))
        for number, handler in ((MARKER, _mark), (signal.SIGTRAP, _step)):
            action = _Sigaction(handler.address, flags=_SA_SIGINFO | _SA_ONSTACK)
            _check(_libc.sigaction(number, ctypes.byref(action), None))
        function()
        status = 0
    finally:
        os._exit(status)


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
