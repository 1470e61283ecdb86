# SPDX-License-Identifier: Apache-2.0
"""A process's own name, umask, fds, namespaces and privileges. Linux only, as taps are.

Python has unshare(2) and setns(2) from 3.12 on, and no mount(2), so they are called through libc
here. Each call raises OSError.
"""

import contextlib
import ctypes
import errno
import os
import resource
import time
from collections.abc import Iterator, Set
from pathlib import Path

# linux/sched.h
NEW_MOUNT = 0x0002_0000
NEW_UTS = 0x0400_0000
NEW_IPC = 0x0800_0000
NEW_PID = 0x2000_0000
NEW_NET = 0x4000_0000

# linux/mount.h
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_REC, MS_PRIVATE = 0x20, 0x4000, 0x40000
MNT_DETACH = 2

_PR_SET_NAME = 15  # prctl(2); 15 bytes and a terminator
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_PR_CAPBSET_DROP = 24

_RESERVED_FDS = 64

_UMASK = 0o027
"""For the modes of ovs-vswitchd's files: a log of 0640, a pidfile of 0640."""

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> int:
    """Call a function of libc that returns -1 for an error; raises OSError."""
    result: int = getattr(_libc, name)(*arguments)  # which libc's object keeps
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def system_call(number: int, *arguments: object) -> int:
    """Make a system call that libc has no function for; raises OSError."""
    return call("syscall", ctypes.c_long(number), *arguments)


def set_name(name: str) -> None:
    """Set the name that ps(1) and top(1) show for this process."""
    _libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]), 0, 0, 0)


def restrict_umask() -> None:
    """Keep new files from other users, and from writing by the group.

    A stricter umask that this process was started with stays.
    """
    os.umask(os.umask(0o777) | _UMASK)


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    """Set the umask for the context. It is the process's: no other thread may make files."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def threads() -> int:
    """The number of threads of this process."""
    return len(list(Path("/proc/self/task").iterdir()))


def await_threads(most: int) -> None:
    """Wait until no more than `most` threads are left.

    A thread that was joined leaves the kernel's list a moment later.
    """
    while threads() > most:
        os.sched_yield()


def close_fds_except(kept: Set[int]) -> None:
    """Close all fds but `kept`, even those that objects still own."""
    low = 0
    for fd in sorted(kept):
        if low < fd:  # Python 3.11's closerange(0, 0) closes everything
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def raise_fd_limit() -> None:
    """Raise the fd limit to the hard limit: every port's queues pass through the daemon."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def fds_exhausted(error: OSError) -> str:
    """Advice for an error that means that this process has no fds left; "" for other errors."""
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return ""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        f"fds-exhausted: the daemon may have {most} fds, 4 for each port; raise LimitNOFILE= of "
        "its unit (systemctl edit ovs-vhost), or the hard limit (ulimit -Hn) where it is started"
    )


def require_fds(last: int) -> None:
    """Raise OSError (EMFILE) if `last`, an fd opened just now, is one of the last few.

    What is left is for the connections of operators and front-ends: a daemon that cannot accept a
    connection can neither refuse it.
    """
    if last >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _RESERVED_FDS:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def unshare(namespaces: int) -> None:
    """Move to new namespaces of these kinds (NEW_* flags); for NEW_PID the next child moves."""
    call("unshare", namespaces)


def enter(fd: int, namespace: int) -> None:
    """Enter the namespace of `fd` (a file of /proc/PID/ns)."""
    call("setns", fd, namespace)


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    encoded = [None if text is None else text.encode() for text in (source, target, kind, data)]
    source_, target_, kind_, data_ = encoded
    call("mount", source_, target_, kind_, ctypes.c_ulong(flags), data_)


def unmount(target: str, flags: int) -> None:
    """umount2(2)."""
    call("umount2", target.encode(), flags)


class _Timerspec(ctypes.Structure):
    """struct itimerspec: seconds and nanoseconds, of the interval and of the first expiry."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("again", "again_ns", "first", "first_ns"))


def make_timer() -> int:
    """A non-blocking timerfd(2) of CLOCK_MONOTONIC, not set. The os module has it from 3.13 on."""
    return call("timerfd_create", time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)


def set_timer(fd: int, seconds: int) -> None:
    """Set a timerfd to expire once after `seconds`; 0 disarms it."""
    call("timerfd_settime", fd, 0, ctypes.byref(_Timerspec(0, 0, seconds, 0)), None)


def forbid_new_privileges() -> None:
    """Keep programs run by this process and its children from gaining privileges."""
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


class _FilterProgram(ctypes.Structure):
    """struct sock_fprog, linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


_INSTRUCTION = 8
"""Bytes of a struct sock_filter."""


def filter_system_calls(program: bytes) -> None:
    """Set a seccomp(2) filter of this thread, for ever: an array of struct sock_filter."""
    filter_ = _FilterProgram(len(program) // _INSTRUCTION, program)
    call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filter_), 0, 0)


def empty_bounding_set() -> None:
    """Give up every capability for ever, but for those that the process has now."""
    for capability in range(64):
        try:
            call("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return  # this kernel has no more
            raise
