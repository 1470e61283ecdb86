# SPDX-License-Identifier: Apache-2.0
"""Closing a peer's fds, which may take as long as the peer likes.

close(2) of a TCP socket that lingers waits for its other end; close(2) of a file waits for its file
system (FUSE). So only fds that the kernel closes by itself are closed at once. All others are
closed by a thread that nobody waits for, unix sockets too: more fds may be in their queues.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Sequence

from ovs_vhost_plugin.vhost.fds.kind import Kind, kind_of

AT_ONCE = 8
"""Threads that close at a time. Each has the fds of one message, or one socket."""
_STACK = 256 * 1024
"""Bytes of each thread's stack."""
_PATIENCE = 1.0
"""Seconds in which one of `AT_ONCE` threads has to finish."""

_slots = threading.BoundedSemaphore(AT_ONCE)


def close_fds(fds: Sequence[int]) -> None:
    """Close fds of any kind without waiting."""
    waiting = []
    for fd in fds:
        if kind_of(fd) in (Kind.EVENTFD, Kind.PIPE, Kind.MEMORY):
            os.close(fd)
        else:
            waiting.append(fd)
    if waiting:
        _close_elsewhere(waiting)


def _close_elsewhere(fds: list[int]) -> None:
    if not _slots.acquire(timeout=_PATIENCE):
        _give_up()
        return

    def close() -> None:
        try:
            _close_all(fds)
        finally:
            _slots.release()

    before = threading.stack_size(_STACK)
    try:
        threading.Thread(target=close, name="closing", daemon=True).start()
    except RuntimeError:  # no more threads: close here, where the daemon sees a hang
        close()
    finally:
        threading.stack_size(before)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):  # an error of an earlier write; the fd is closed anyway
            os.close(fd)


def _give_up() -> None:
    """End this process, which costs one port; the daemon reads the last line.

    Its front-end passes one slow fd after another, and would make this process hold any number.
    The error's name is in docs/hostile-inputs.md.
    """
    print(f"fds-not-closed: {AT_ONCE} that the front-end passed hang", file=sys.stderr, flush=True)
    os._exit(os.EX_PROTOCOL)
