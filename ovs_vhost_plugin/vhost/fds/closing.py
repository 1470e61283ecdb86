# SPDX-License-Identifier: Apache-2.0
"""Closing what a peer has passed, which may take as long as the peer likes.

close(2) of a TCP socket that lingers waits for its other end, and of a file it waits for its file
system (FUSE). So only what the kernel closes by itself is closed at once; all the rest, also a unix
socket, in whose queue there may be more fds, is closed by a thread that nobody waits for.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Sequence

from ovs_vhost_plugin.vhost.fds.kind import Kind, kind_of

AT_ONCE = 8
"""Threads that close at a time. Each has what came with one message, or one socket."""
_STACK = 256 * 1024
"""Bytes of the stack of each."""
_PATIENCE = 1.0
"""Seconds until one of them is to be done, when there are that many."""

_slots = threading.BoundedSemaphore(AT_ONCE)


def close_fds(fds: Sequence[int]) -> None:
    """Close fds that nobody wants, of whatever kind, without waiting."""
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
    except RuntimeError:  # no more threads: then here, where the daemon sees it hang
        close()
    finally:
        threading.stack_size(before)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):  # of what was written before: it is closed all the same
            os.close(fd)


def _give_up() -> None:
    """End this process, which costs one port: the daemon reads the last line.

    Its front-end passes one after the other, and would have us hold any number of them. The name
    is in docs/hostile-inputs.md.
    """
    print(f"fds-not-closed: {AT_ONCE} that the front-end passed hang", file=sys.stderr, flush=True)
    os._exit(os.EX_PROTOCOL)
