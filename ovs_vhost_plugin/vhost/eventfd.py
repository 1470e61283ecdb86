# SPDX-License-Identifier: Apache-2.0
"""What may serve as kick, call or error fd of a vring: an eventfd that does not block."""

import os
from pathlib import Path

from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName

# What the kernel calls the inode of an eventfd, see proc_pid_fd(5).
_EVENTFD = "anon_inode:[eventfd]"


def new_eventfd() -> int:
    """An eventfd of our own, which does not block."""
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


def is_eventfd(fd: int) -> bool:
    """Whether `fd` is an eventfd."""
    return _kind(fd) == _EVENTFD


def require_eventfd(fd: int) -> None:
    """Make `fd`, which a peer passed, non-blocking; raise PeerError if it is no eventfd.

    Anything else could block a read or write of eight bytes, or deliver them to somewhere the
    peer itself may not write to. Pipes, which the specification allows elsewhere, are not used
    on Linux. The peer shares the flag and could clear it again.
    """
    if not is_eventfd(fd):
        raise PeerError(PeerErrorName.VRING_FD_NOT_EVENTFD, _kind(fd))
    try:
        os.set_blocking(fd, False)
    except OSError as error:  # open(2), O_PATH: it names an eventfd, and is none
        raise PeerError(PeerErrorName.VRING_FD_NOT_EVENTFD, "opened with O_PATH") from error


def _kind(fd: int) -> str:
    return str(Path(f"/proc/self/fd/{fd}").readlink())
