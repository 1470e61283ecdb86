# SPDX-License-Identifier: Apache-2.0
"""The loop's poller: that of Open vSwitch's bindings, by poll(2).

The bindings' own sleeps in select(2), which takes no fd above 1,023 and so ends a daemon of some
200 ports. What there is one of for each port is not here but in an epoll set, which is one fd
(`workers/readiness.py`).
"""

import select
import time
from typing import Any


class LoopPoller:
    """Takes the place of `ovs.poller.Poller`; fds and times count for one `block`."""

    def __init__(self) -> None:
        self._events: dict[int, int] = {}
        self._until: float | None = None  # milliseconds of CLOCK_MONOTONIC

    def fd_wait(self, fd: Any, events: int) -> None:
        """Wake when `fd`, a number or an object with one, is ready for one of `events`."""
        number = fd if isinstance(fd, int) else fd.fileno()
        # The bindings register a socket once to read and once to write.
        self._events[number] = self._events.get(number, 0) | events

    def timer_wait(self, msec: float) -> None:
        """Wake in `msec` milliseconds."""
        self.timer_wait_until(_now() + msec)

    def timer_wait_until(self, msec: float) -> None:
        """Wake at `msec`, as `ovs.timeval.msec()` counts."""
        if self._until is None or msec < self._until:
            self._until = msec

    def immediate_wake(self) -> None:
        """Do not sleep."""
        self._until = 0.0

    def block(self) -> None:
        """Sleep until something that was registered happens."""
        poll = select.poll()
        for fd, events in self._events.items():
            poll.register(fd, events)
        poll.poll(None if self._until is None else max(0.0, self._until - _now()))
        self._events.clear()
        self._until = None


def _now() -> float:
    return time.monotonic() * 1e3
