# SPDX-License-Identifier: Apache-2.0
"""The kind of a peer's fd, found without asking the process that may serve the file.

A front-end may pass any file that it can open, also one of a file system that it serves itself
(FUSE) and never answers for: fstat(2), mmap(2), read(2), even close(2) of such a file wait for
it, and no signal ends the wait. So each fd is checked once, where its message is taken and before
any other use, by calls that the kernel answers by itself.
"""

import ctypes
import fcntl
import os
import socket
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName

# proc_pid_fd(5): the kernel's name for the inode of an eventfd. No path looks like it.
_EVENTFD = "anon_inode:[eventfd]"

_libc = ctypes.CDLL(None, use_errno=True)


class Kind(Enum):
    """The kinds of fd that requests take, and OTHER."""

    EVENTFD = "an eventfd"
    PIPE = "a pipe"
    SOCKET = "a unix stream socket"
    MEMORY = "a file in memory: memfd, tmpfs or hugetlbfs"
    OTHER = "none of these"


@dataclass(frozen=True, slots=True)
class Rule:
    """The kind of fd that a request takes, and the error's name for another kind."""

    kind: Kind
    error: PeerErrorName


def kind_of(fd: int) -> Kind:
    """The kind of `fd`."""
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH:
        return Kind.OTHER  # open(2): O_PATH names a file without opening it
    if _answers(fd, fcntl.F_GET_SEALS):
        # mm/memfd.c, memfd_fcntl(): only files of shmem and hugetlbfs have seals, also where none
        # can be set.
        return Kind.MEMORY
    if _answers(fd, fcntl.F_GETPIPE_SZ):
        return Kind.PIPE  # a named one too, on any file system: the kernel serves it
    family = _socket_option(fd, socket.SO_DOMAIN)
    if family is not None:
        stream = _socket_option(fd, socket.SO_TYPE) == socket.SOCK_STREAM
        return Kind.SOCKET if family == socket.AF_UNIX and stream else Kind.OTHER
    return Kind.EVENTFD if name_of(fd) == _EVENTFD else Kind.OTHER


def is_eventfd(fd: int) -> bool:
    """Whether `fd` is an eventfd."""
    return kind_of(fd) is Kind.EVENTFD


def require(fd: int, rule: Rule) -> None:
    """Raise PeerError with the rule's name where `fd` is of another kind.

    An eventfd is made non-blocking. The peer shares the flag and could clear it again.
    """
    if kind_of(fd) is not rule.kind:
        raise PeerError(rule.error, f"{name_of(fd)} is not {rule.kind.value}")
    if rule.kind is Kind.EVENTFD:
        os.set_blocking(fd, False)


def name_of(fd: int) -> str:
    """The name of `fd` by proc_pid_fd(5): a path, or the kernel's name for a file without one."""
    return str(Path(f"/proc/self/fd/{fd}").readlink())


def _answers(fd: int, command: int) -> bool:
    try:
        fcntl.fcntl(fd, command)
    except OSError:
        return False
    return True


def _socket_option(fd: int, option: int) -> int | None:
    """A numeric option of `fd` (socket(7)); None if it is no socket.

    By the system call: Python's socket object would ask for the socket's address, which waits for
    a lock that the socket's owner may hold.
    """
    value, size = ctypes.c_int(), ctypes.c_uint32(ctypes.sizeof(ctypes.c_int))
    answer = ctypes.byref(value), ctypes.byref(size)
    failed = _libc.getsockopt(fd, socket.SOL_SOCKET, option, *answer)
    return None if failed else value.value
