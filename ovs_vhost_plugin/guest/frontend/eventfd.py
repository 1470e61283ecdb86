# SPDX-License-Identifier: Apache-2.0
"""Kick and call, by which driver and device wake each other (vhost-user "Communication").

An eventfd is a counter in the kernel that can be waited on. Waiting happens only here, with a time
limit: a device that never calls must not hang a test.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Sequence


class EventFd:
    """A non-blocking eventfd."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """For poll, and for sending it to a back-end."""
        return self._fd

    def signal(self) -> None:
        """Wake the threads that wait."""
        os.eventfd_write(self._fd, 1)

    def take(self) -> int:
        """Reset the counter; return the number of signals since the last `take`."""
        try:
            return os.eventfd_read(self._fd)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Close the eventfd; further calls do nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def wait_for(done: Callable[[], bool], fds: Sequence[int], seconds: float) -> bool:
    """Wait until `done`, asked again whenever one of `fds` can be read; False after `seconds`.

    `done` has to read from the readable fd, or it would be asked in a busy loop.
    """
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    deadline = time.monotonic() + seconds
    while not done():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        poll.poll(left * 1000)
    return True
