# SPDX-License-Identifier: Apache-2.0
"""Code that runs as an unprivileged user, in a process of its own."""

import contextlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

NOBODY = 65534
TENANT, NEIGHBOUR = 64001, 64002
"""Users of two VMs; no account needs to have these numbers."""


def run_as(uid: int, act: Callable[[], object]) -> None:
    """Do `act` as this user and no group but its own; AssertionError when it raises."""
    pid = _fork(uid, act)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, f"what was done as {uid} failed, see above"


@contextlib.contextmanager
def running_as(uid: int, act: Callable[[], object]) -> Iterator[int]:
    """`act` goes on as this user for the length of the context, and is killed then; its pid."""
    pid = _fork(uid, act)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextlib.contextmanager
def listening_as(uid: int, path: Path) -> Iterator[socket.socket]:
    """A socket that this user has made and listens on; accepted from here."""
    with socket.socket(socket.AF_UNIX) as listener:

        def listen() -> None:
            listener.bind(str(path))
            listener.listen(8)

        run_as(uid, listen)
        listener.settimeout(60)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def become(uid: int) -> None:
    """Be this user and no group but its own, for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _fork(uid: int, act: Callable[[], object]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        become(uid)
        act()
        status = 0
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(status)
