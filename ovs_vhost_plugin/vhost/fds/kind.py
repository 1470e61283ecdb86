# SPDX-License-Identifier: Apache-2.0
"""What a peer's fd is, found out without asking whoever serves it.

A front-end may pass any file that it can open, also one of a file system that it serves itself
(FUSE) and does not mean to answer: fstat(2), mmap(2), read(2), even close(2) of such a file wait
for it, and no signal ends that. So each fd is looked at once, where its message is taken, by what
the kernel answers by itself, and before anything else is done with it.
"""

import ctypes
import fcntl
import os
import socket
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName

# proc_pid_fd(5): what the kernel calls the inode of an eventfd. No path reads like it.
_EVENTFD = "anon_inode:[eventfd]"

_libc = ctypes.CDLL(None, use_errno=True)


class Kind(Enum):
    """What requests take, and the rest."""

    EVENTFD = "an eventfd"
    PIPE = "a pipe"
    SOCKET = "a unix stream socket"
    MEMORY = "a file in memory: memfd, tmpfs or hugetlbfs"
    OTHER = "none of these"


@dataclass(frozen=True, slots=True)
class Rule:
    """The kind of fd that a request takes, and what another one is called."""

    kind: Kind
    error: PeerErrorName


def kind_of(fd: int) -> Kind:
    """What `fd` is."""
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH:
        return Kind.OTHER  # open(2): it names a file, and is none
    if _answers(fd, fcntl.F_GET_SEALS):
        # mm/memfd.c, memfd_fcntl(): of all files, those of shmem and hugetlbfs have seals, also
        # where none can be set.
        return Kind.MEMORY
    if _answers(fd, fcntl.F_GETPIPE_SZ):
        return Kind.PIPE  # a named one too, wherever its name is: it is the kernel's all the same
    family = _socket_option(fd, socket.SO_DOMAIN)
    if family is not None:
        stream = _socket_option(fd, socket.SO_TYPE) == socket.SOCK_STREAM
        return Kind.SOCKET if family == socket.AF_UNIX and stream else Kind.OTHER
    return Kind.EVENTFD if name_of(fd) == _EVENTFD else Kind.OTHER


def is_eventfd(fd: int) -> bool:
    """Whether `fd` is an eventfd."""
    return kind_of(fd) is Kind.EVENTFD


def require(fd: int, rule: Rule) -> None:
    """Raise PeerError, by the rule's name, where `fd` is of another kind.

    An eventfd does not block from then on. The peer shares the flag and could clear it again.
    """
    if kind_of(fd) is not rule.kind:
        raise PeerError(rule.error, f"{name_of(fd)} is not {rule.kind.value}")
    if rule.kind is Kind.EVENTFD:
        os.set_blocking(fd, False)


def name_of(fd: int) -> str:
    """What proc_pid_fd(5) says of `fd`: a path, or the kernel's name for what has none."""
    return str(Path(f"/proc/self/fd/{fd}").readlink())


def _answers(fd: int, command: int) -> bool:
    try:
        fcntl.fcntl(fd, command)
    except OSError:
        return False
    return True


def _socket_option(fd: int, option: int) -> int | None:
    """A number that socket(7) has of `fd`; None: it is no socket.

    By the system call: an object of Python's would ask the socket for its address, which waits for
    a lock that its owner may hold.
    """
    value, size = ctypes.c_int(), ctypes.c_uint32(ctypes.sizeof(ctypes.c_int))
    answer = ctypes.byref(value), ctypes.byref(size)
    failed = _libc.getsockopt(fd, socket.SOL_SOCKET, option, *answer)
    return None if failed else value.value
