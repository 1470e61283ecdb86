# SPDX-License-Identifier: Apache-2.0
"""What a process does to itself around a fork. Linux only, as taps are."""

import ctypes
import os
import resource
from collections.abc import Mapping, Set
from pathlib import Path

_PR_SET_NAME = 15  # prctl(2); 15 bytes and a terminator

_libc = ctypes.CDLL(None, use_errno=True)


def set_name(name: str) -> None:
    """Set the name that ps(1) and top(1) show of this process."""
    _libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]), 0, 0, 0)


def threads() -> int:
    """How many threads this process has."""
    return len(list(Path("/proc/self/task").iterdir()))


def redirect(files: Mapping[int, str]) -> None:
    """Make each fd refer to a file, emptied or made anew, for this user only."""
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW
    for target, path in files.items():
        fd = os.open(path, flags, 0o600)
        os.dup2(fd, target)
        os.close(fd)


def close_fds_except(kept: Set[int]) -> None:
    """Close all fds but `kept`, whatever objects think they own them."""
    low = 0
    for fd in sorted(kept):
        if low < fd:  # Python 3.11's closerange(0, 0) closes everything
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def raise_fd_limit() -> None:
    """Take as many fds as the hard limit allows: a port's queues pass through the daemon."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
