# SPDX-License-Identifier: Apache-2.0
"""Fds of many owners in one epoll set, which is kept between the loop's turns.

So a turn costs what is ready in it, however many workers there are. Source: epoll(7).
"""

import select
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Readiness(Generic[T]):
    """Tells whose fds are ready. An fd is watched until `forget`, which comes before its close."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._owners: dict[int, T] = {}
        self._awake: list[T] = []

    def watch(self, fd: int, events: int, owner: T) -> None:
        """Watch `fd` for `events` (select.POLLIN, select.POLLOUT), which are epoll's too.

        Raises OSError.
        """
        if fd in self._owners:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._owners[fd] = owner

    def forget(self, fd: int) -> None:
        """Watch `fd` no more, if it is watched."""
        if self._owners.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def wake(self, owner: T) -> None:
        """Let `ready` return an owner next time, whatever its fds do."""
        self._awake.append(owner)

    def ready(self) -> list[T]:
        """The owners of the fds that are ready now, each once."""
        woken, self._awake = self._awake, []
        fds = self._epoll.poll(0) if self._owners else []
        return list(dict.fromkeys([*woken, *(self._owners[fd] for fd, _ in fds)]))

    def wait(self, poller: Any) -> None:
        """Register the fd that `ready` has to be called for."""
        poller.fd_wait(self._epoll.fileno(), select.POLLIN)
        if self._awake:
            poller.immediate_wake()

    def close(self) -> None:
        """Close the set; the fds stay their owners'."""
        self._epoll.close()
