# SPDX-License-Identifier: Apache-2.0
"""The record of a worker's process, written from the fork server's report, never the worker's.

A compromised worker could claim any pid and make the daemon kill that process. A pid alone is not
enough either, as pids are used again: the record holds the process's start time too (proc(5),
/proc/PID/stat field 22), and only a pidfd that was checked against it is signalled.
"""

import contextlib
import os
import signal
from pathlib import Path


def write(path: Path, pid: int) -> None:
    """Record a process in `path`."""
    path.write_text(f"{pid} {_start_time(pid)}\n")


def open_process(path: Path) -> int | None:
    """A pidfd of the process recorded in `path`; None if it has ended or there is no record."""
    try:
        pid_text, start_time = path.read_text().split()
        pid = int(pid_text)
        pidfd = os.pidfd_open(pid)
    except (OSError, ValueError):
        return None
    try:
        # After opening: from here on the pidfd means the process whose start time is read.
        if _start_time(pid) == start_time:
            return pidfd
    except OSError:
        pass
    os.close(pidfd)
    return None


def succeed(path: Path, successor: Path) -> None:
    """Put the record of a successor in place of that of a process that has ended, if it has.

    A daemon that died in a handover has left both. The process that does not have the port ends
    when its daemon does.
    """
    before = open_process(path)
    if before is not None:
        os.close(before)
    elif (after := open_process(successor)) is not None:
        os.close(after)
        successor.rename(path)


def kill(pidfd: int) -> None:
    """Send SIGKILL to the process, if it still runs.

    Root without CAP_KILL may signal only processes of its own user (kill(2)), so this switches to
    the worker's user. Nobody else may signal us meanwhile, as our real and saved user stay.
    """
    with contextlib.suppress(ProcessLookupError):
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except PermissionError:
            before = os.geteuid()
            os.seteuid(_user(pidfd))
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.seteuid(before)


def _user(pidfd: int) -> int:
    """The real user of a process; ProcessLookupError when it has ended."""
    # pidfd_open(2): "Pid:" of its fdinfo is -1 then. While the pidfd is open, no other process
    # gets the number.
    pid = _field(Path(f"/proc/self/fdinfo/{pidfd}"), "Pid")
    try:
        return int(_field(Path(f"/proc/{pid}/status"), "Uid"))
    except FileNotFoundError:
        raise ProcessLookupError from None


def _field(path: Path, name: str) -> str:
    """The first word of a field in a file of lines such as "Pid:  7"."""
    lines = path.read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


def _start_time(pid: int) -> str:
    # The command, field 2, is in parentheses and may itself hold spaces and parentheses.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
