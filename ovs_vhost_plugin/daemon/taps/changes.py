# SPDX-License-Identifier: Apache-2.0
"""Taps are made and removed in a thread of their own, one after the other.

The kernel takes 15 ms for either: it waits until nobody can be looking at the device any more
(rcu_barrier, called by __dev_change_net_namespace and netdev_run_todo in net/core/dev.c). The loop
would stand still for as long, and no guest could be announced.
"""

import contextlib
import os
import select
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ovs_vhost_plugin.tap import TapError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Change(Generic[T]):
    name: str
    future: Future[T]
    then: Callable[[T, float], None]
    otherwise: Callable[[TapError, float], None]


class TapChanges:
    """The changes under way, at most one of a tap."""

    def __init__(self, thread: Executor) -> None:
        """`thread` runs one function at a time, in their order."""
        self._thread = thread
        self._under_way: dict[str, _Change[Any]] = {}
        self._ended: deque[_Change[Any]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def begin(
        self,
        name: str,
        change: Callable[[str], T],
        then: Callable[[T, float], None],
        otherwise: Callable[[TapError, float], None],
    ) -> None:
        """Let the thread change the tap `name`, of which no change is under way.

        then       takes what `change` returned, and the time, in the loop
        otherwise  takes the TapError that it raised
        """
        assert name not in self._under_way
        made = _Change(name, self._thread.submit(change, name), then, otherwise)
        self._under_way[name] = made
        made.future.add_done_callback(lambda _: self._tell(made))

    def _tell(self, change: _Change[Any]) -> None:
        """Wake the loop; called in the thread."""
        self._ended.append(change)
        os.eventfd_write(self._wake, 1)

    def is_under_way(self, name: str) -> bool:
        """Whether the tap is being changed."""
        return name in self._under_way

    def run(self, now: float) -> list[str]:
        """Finish the changes that have ended; return their taps. Raises all but TapErrors."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        names = []
        while self._ended:
            change = self._ended.popleft()
            if not change.future.cancelled():
                del self._under_way[change.name]
                self._finish(change, now)
                names.append(change.name)
        return names

    @staticmethod
    def _finish(change: _Change[T], now: float) -> None:
        try:
            result = change.future.result()
        except TapError as error:
            change.otherwise(error, now)
        else:
            change.then(result, now)

    def settle(self, now: float) -> None:
        """Finish the change that has begun, and let the others not begin."""
        for name, change in list(self._under_way.items()):
            if change.future.cancel():
                del self._under_way[name]
        while self._under_way:
            select.select([self._wake], [], [])
            self.run(now)

    def wait(self, poller: Any) -> None:
        """Register the fd for which `run` has to be called."""
        poller.fd_wait(self._wake, select.POLLIN)

    def close(self) -> None:
        """Wait for the thread."""
        self._thread.shutdown(cancel_futures=True)
        os.close(self._wake)
