# SPDX-License-Identifier: Apache-2.0
"""Counts the instructions of a function, by single-stepping a child between two markers.

The processor traps after each instruction (ptrace(2), PTRACE_SINGLESTEP), so the count is exact,
and the same on a busy machine, in a virtual machine and without performance counters. The kernel's
work in a system call is not counted; the instruction that makes the call is one.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

_TRACEME, _CONT, _SINGLESTEP = 0, 7, 9  # sys/ptrace.h
MARKER = signal.SIGUSR1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def count(function: Callable[[], None], after_each: Callable[[], None] | None = None) -> int:
    """Instructions that `function` executes between two MARKERs that it raises.

    `after_each` is called in this process after every instruction, while the child is stopped.

    `function` runs in a fork of this process, which must have one thread. Raises RuntimeError
    unless it returns after exactly two markers.
    """
    child = os.fork()
    if child == 0:
        _run_traced(function)
    try:
        return _step_between_markers(child, after_each)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise


def _run_traced(function: Callable[[], None]) -> None:
    status = 1
    try:
        _ptrace(_TRACEME, 0)
        function()
        status = 0
    finally:
        os._exit(status)


def _step_between_markers(child: int, after_each: Callable[[], None] | None) -> int:
    _await_marker(child)
    steps = 0
    while True:
        _ptrace(_SINGLESTEP, child)
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            raise RuntimeError("the traced function ended before its second marker")
        number = os.WSTOPSIG(status)
        if number == MARKER:
            break
        if number != signal.SIGTRAP:
            raise RuntimeError(f"the traced function got {signal.Signals(number).name}")
        steps += 1
        if after_each is not None:
            after_each()
    _ptrace(_CONT, child)
    _, status = os.waitpid(child, 0)
    if not os.WIFEXITED(status) or os.WEXITSTATUS(status):
        raise RuntimeError("the traced function did not return after its second marker")
    return steps


def _await_marker(child: int) -> None:
    _, status = os.waitpid(child, 0)
    if not os.WIFSTOPPED(status) or os.WSTOPSIG(status) != MARKER:
        raise RuntimeError("the traced function raised no marker")


def _ptrace(request: int, pid: int) -> None:
    # data 0: the signal that stopped the child is not delivered
    if _libc.ptrace(request, pid, None, None) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace: {os.strerror(number)}")
