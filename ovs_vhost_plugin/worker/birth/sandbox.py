# SPDX-License-Identifier: Apache-2.0
"""A worker's sandbox: all that it gives up before it reads the first byte of a peer.

A worker faces a guest and its front-end, and may be taken over by them. A worker that is taken over
has only the fds that it was given, memory, and the system calls of `ALLOWED`. It has no file, no
network, no other process, no capability and no way to get one. docs/security.md has this file as a
table.

The order of the layers is one in which each can still be set up. A kernel or a container may lack
some layers: `enter` returns their names, and the daemon shows them in its log and in vhost/show.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from ovs_vhost_plugin.common import process
from ovs_vhost_plugin.ipc.spec import threads_of

# -- system calls -----------------------------------------------------------------------------

_TO_SLEEP = ("poll", "ppoll", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait")
_TO_MOVE_BYTES = ("read", "readv", "preadv2", "pread64", "write", "writev", "pwrite64", "splice")
_TO_TALK = ("recvmsg", "recvfrom", "sendmsg", "accept", "accept4", "shutdown")
_OF_SOCKETS = ("getsockopt", "getsockname", "getpeername")
_OF_FDS = ("close", "dup", "dup2", "dup3", "fcntl", "lseek", "ftruncate", "eventfd2", "pipe2")
_OF_FILES = ("fstat", "newfstatat", "statx", "fstatfs", "readlink", "readlinkat", "memfd_create")
_OF_MEMORY = ("brk", "munmap", "mremap", "madvise")
_OF_THREADS = ("futex", "set_robust_list", "rseq", "gettid", "getpid", "sched_yield", "exit")
_OF_TIME = ("clock_gettime", "clock_nanosleep", "nanosleep", "timerfd_settime")
_OF_SIGNALS = ("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall")
_TO_KNOW = ("getrandom", "sched_getaffinity", "getuid", "geteuid", "getgid", "getegid", "uname")

ALLOWED = (
    *_TO_SLEEP,
    *_TO_MOVE_BYTES,
    *_TO_TALK,
    *_OF_SOCKETS,
    *_OF_FDS,
    *_OF_FILES,
    *_OF_MEMORY,
    *_OF_THREADS,
    *_OF_TIME,
    *_OF_SIGNALS,
    *_TO_KNOW,
    "exit_group",
)
"""System calls that a worker may make with any arguments; see also `_with_arguments`.

None opens a file, makes a socket, forks, executes, or names a path outside of the worker's own
/proc (readlink(2) shows the kind of a peer's fd). Any other call, except those of `REFUSED`, ends
the worker by SIGSYS, which the daemon names.
"""

REFUSED = {
    "open": errno.EACCES,  # Python looks for the source of a traceback, and goes on without
    "openat": errno.EACCES,
    "clone3": errno.ENOSYS,  # glibc falls back to clone, whose flags a filter can read
    "prctl": errno.EPERM,  # glibc names memory and threads, and goes on without
    "arch_prctl": errno.EPERM,
    "sysinfo": errno.EPERM,
}
"""System calls that libraries try without harm, and the errors returned for them."""

IOCTLS = {
    "FIONBIO": 0x5421,  # a socket or eventfd that does not block
    "TUNSETCARRIER": 0x400454E2,
    "TUNSETOFFLOAD": 0x400454D0,
    "TUNSETVNETHDRSZ": 0x400454D8,
    "TUNSETQUEUE": 0x400454D9,
    "TUNGETIFF": 0x800454D2,
    # Useless without /dev/userfaultfd, which only a port with postcopy is given
    "USERFAULTFD_IOC_NEW": 0xAA00,
    "UFFDIO_API": 0xC018AA3F,
    "UFFDIO_REGISTER": 0xC020AA00,
    "UFFDIO_UNREGISTER": 0x8010AA01,
    "UFFDIO_WAKE": 0x8010AA02,
}
"""ioctl(2) requests that a worker may make (linux/if_tun.h, linux/userfaultfd.h)."""

_CLONE_VM, _CLONE_THREAD = 0x100, 0x10000
_IORING_ENTER_GETEVENTS = 1


def _with_arguments(
    seccomp: ModuleType, pid: int, io_uring: bool
) -> list[tuple[str, tuple[Any, ...]]]:
    """Rules for system calls that are allowed with certain arguments only."""

    def masked(argument: int, mask: int, value: int) -> Any:
        return seccomp.Arg(argument, seccomp.MASKED_EQ, mask, value)

    no_code = masked(2, mmap.PROT_EXEC, 0)
    thread = _CLONE_VM | _CLONE_THREAD
    rules: list[tuple[str, tuple[Any, ...]]] = [
        # No memory is both written and executed: the kernels were compiled before.
        ("mprotect", (no_code,)),
        # No shared memory without a file: only private memory counts for RLIMIT_DATA.
        ("mmap", (no_code, masked(3, mmap.MAP_SHARED, 0))),
        ("mmap", (no_code, masked(3, mmap.MAP_ANONYMOUS, 0))),
        ("clone", (masked(0, thread, thread),)),  # a thread, never a process
        ("sendto", (seccomp.Arg(4, seccomp.EQ, 0),)),  # to the socket's peer, no address
        ("prlimit64", (seccomp.Arg(2, seccomp.EQ, 0),)),  # reading a limit
        ("tgkill", (seccomp.Arg(0, seccomp.EQ, pid),)),  # raise(3), abort(3)
    ]
    low = 0xFFFF_FFFF  # the kernel reads an unsigned int
    if io_uring:
        # For the one that it is born with, which does no more than writev (`common/uring.py`).
        others = low & ~_IORING_ENTER_GETEVENTS
        rules.append(("io_uring_enter", (masked(3, others, 0), seccomp.Arg(4, seccomp.EQ, 0))))
    rules += [("ioctl", (masked(1, low, request),)) for request in IOCTLS.values()]
    return rules


@cache
def bindings() -> ModuleType:
    """libseccomp's bindings: the distribution's, or PyPI's of the same interface.

    The first call must be made while there still are files. Raises ImportError.
    """
    try:
        import seccomp
    except ImportError:
        import pyseccomp as seccomp
    module: ModuleType = seccomp
    return module


FIRST = 1
"""The pid of the first process of a PID namespace, which a worker is where there are such."""


def filter_system_calls(*, io_uring: bool) -> None:
    """Allow only the system calls above from now on, in this thread and those that it starts."""
    process.filter_system_calls(program(os.getpid(), io_uring))


@cache
def program(pid: int, io_uring: bool) -> bytes:
    """The filter of the process `pid`: an array of struct sock_filter (linux/filter.h).

    io_uring: the process has been given an io_uring.

    Making it takes milliseconds and most of a MiB, so the fork server makes that of its children.
    Raises ImportError.
    """
    seccomp = bindings()
    rules = seccomp.SyscallFilter(seccomp.KILL_PROCESS)
    for name in ALLOWED:
        _add(rules, seccomp.ALLOW, name)
    for name, number in REFUSED.items():
        _add(rules, seccomp.ERRNO(number), name)
    for name, arguments in _with_arguments(seccomp, pid, io_uring):
        _add(rules, seccomp.ALLOW, name, *arguments)
    reader, writer = os.pipe()  # a pipe holds 64 KiB, and the filter takes a few
    with os.fdopen(reader, "rb") as read, os.fdopen(writer, "wb") as written:
        rules.export_bpf(written)
        written.close()
        return read.read()


def _add(rules: Any, action: Any, name: str, *arguments: Any) -> None:
    """Add a rule, unless this processor's Linux has no such call (aarch64 has no poll)."""
    seccomp = bindings()
    try:
        number = seccomp.resolve_syscall(seccomp.Arch.NATIVE, name)
    except (ValueError, RuntimeError):
        return
    if number >= 0:
        rules.add_rule(action, name, *arguments)


# -- namespaces -------------------------------------------------------------------------------


def leave_namespaces() -> list[str]:
    """Enter new, empty namespaces; return the names of those that could not be made.

    The fork server makes the PID namespace, as only a child can be in it.
    """
    lacking = []
    for name, flag in (
        ("network namespace", process.NEW_NET),
        ("IPC namespace", process.NEW_IPC),
        ("UTS namespace", process.NEW_UTS),
    ):
        lacking += _attempt(name, partial(process.unshare, flag))
    files = _attempt("mount namespace", partial(process.unshare, process.NEW_MOUNT))
    return lacking + (files or _attempt("root directory of its own", _leave_files))


def _leave_files() -> None:
    """Change to an empty, read-only root directory, with a /proc of this process alone."""
    process.mount("none", "/", None, process.MS_REC | process.MS_PRIVATE)
    # On an existing directory: the mount is seen in this namespace only.
    process.mount("none", _NEW_ROOT, "tmpfs", _HARDENED, _EMPTY)
    try:
        os.mkdir(f"{_NEW_ROOT}/proc", 0o555)  # noqa: PTH102 - as the calls around it
        process.mount("proc", f"{_NEW_ROOT}/proc", "proc", _HARDENED, "subset=pid")
        read_only = process.MS_REMOUNT | process.MS_RDONLY | _HARDENED
        process.mount("none", _NEW_ROOT, "tmpfs", read_only, _EMPTY)
        os.chdir(_NEW_ROOT)
        # pivot_root(2), "pivot_root(".", ".")": the old root is stacked on the new one.
        process.system_call(_PIVOT_ROOT, b".", b".")
    except OSError:
        process.unmount(_NEW_ROOT, process.MNT_DETACH)
        raise
    process.unmount(".", process.MNT_DETACH)
    os.chdir("/")


_NEW_ROOT = "/proc"
_HARDENED = process.MS_NOSUID | process.MS_NODEV | process.MS_NOEXEC
_EMPTY = "size=4k,nr_inodes=8,mode=755"
# asm/unistd.h of x86-64, asm-generic/unistd.h of all newer ones
_PIVOT_ROOT = 155 if os.uname().machine == "x86_64" else 41


# -- Landlock ---------------------------------------------------------------------------------

# The same numbers on every processor (syscall(2) tables since Linux 5.13)
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
_RULESET_VERSION = 1


class _RulesetAttr(ctypes.Structure):
    """struct landlock_ruleset_attr, linux/landlock.h."""

    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


# Landlock version, the bits it knows of each of the three fields, and bytes of the struct
_LANDLOCK = (
    (6, (0xFFFF, 0b11, 0b11), 24),  # signals and abstract unix sockets
    (5, (0xFFFF, 0b11, 0), 16),  # ioctl of devices
    (4, (0x7FFF, 0b11, 0), 16),  # bind and connect of TCP
    (3, (0x7FFF, 0, 0), 8),
    (2, (0x3FFF, 0, 0), 8),
    (1, (0x1FFF, 0, 0), 8),
)


def forbid_files() -> None:
    """Forbid files, TCP, signals out and abstract sockets by Landlock, even reachable ones.

    No rule allows anything, so two system calls are enough; PyPI's `landlock` knows files only.
    """
    version = process.system_call(_LANDLOCK_CREATE_RULESET, None, 0, _RULESET_VERSION)
    bits, size = next((bits, size) for since, bits, size in _LANDLOCK if version >= since)
    attr = _RulesetAttr(*bits)
    ruleset = process.system_call(_LANDLOCK_CREATE_RULESET, ctypes.byref(attr), size, 0)
    try:
        process.system_call(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


# -- limits -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """The most threads, fds, bytes of private memory beyond the present, and bytes of a file."""

    threads: int
    files: int
    memory: int
    file_size: int


def limits_of(queues: int, largest_file: int) -> Limits:
    """The limits of a worker with `queues` queue pairs and own files up to `largest_file` bytes."""
    # A thread has its stack; 256 vrings have three eventfds each.
    return Limits(threads_of(queues), 4096, (96 + 12 * queues) << 20, largest_file)


def limit(limits: Limits, *, own_user: bool) -> None:
    """Set the limits for good. Threads count for each user, so only if the user is the worker's."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])  # proc_pid_statm(5): data
    data = pages * mmap.PAGESIZE + limits.memory
    for name, value in (
        (resource.RLIMIT_CORE, 0),  # a guest's memory has no place in a core file
        (resource.RLIMIT_NOFILE, limits.files),
        (resource.RLIMIT_DATA, data),
        (resource.RLIMIT_FSIZE, limits.file_size),
        (resource.RLIMIT_MEMLOCK, 0),
        *([(resource.RLIMIT_NPROC, limits.threads)] if own_user else []),
    ):
        _, hard = resource.getrlimit(name)
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (most, most))


# -- all of it --------------------------------------------------------------------------------


def enter(
    uid: int, gid: int, limits: Limits, *, own_user: bool, io_uring: bool = False
) -> list[str]:
    """Give up everything, and become `uid`:`gid`, 0 for no change; return the missing layers.

    The calling process has one thread and, besides its std files, only fds that it will keep, of
    which some may be of an `io_uring`.
    A user id that cannot be taken is an error (OSError), not a missing layer.
    """
    lacking = leave_namespaces()
    limit(limits, own_user=own_user)
    if os.geteuid() == 0 and uid:
        lacking += _attempt("empty bounding set", process.empty_bounding_set)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)  # the capabilities go with the last user id that was 0
    process.forbid_new_privileges()
    lacking += _attempt("Landlock", forbid_files)
    lacking += _attempt("seccomp filter", partial(filter_system_calls, io_uring=io_uring))
    return lacking


def _attempt(name: str, layer: Callable[[], object]) -> list[str]:
    """Set up a layer; return its name and the error if that fails."""
    try:
        layer()
    except (OSError, ImportError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return [f"{name} ({reason})"]
    return []
