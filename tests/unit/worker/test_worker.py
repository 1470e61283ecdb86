# SPDX-License-Identifier: Apache-2.0
"""The worker's loop: what it still handles, and what is another worker's."""

import os
import selectors
from collections.abc import Iterator

import pytest

from ovs_vhost_plugin.worker.worker import handle


class Loop:
    """A selector with sockets that are all readable, and the numbers of those that were handled."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.handled: list[int] = []
        self._fds = [os.eventfd(1) for _ in range(3)]
        for number, fd in enumerate(self._fds):
            self.selector.register(fd, selectors.EVENT_READ, lambda _, n=number: self._take(n))

    def _take(self, number: int) -> None:
        self.handled.append(number)

    def drop(self, number: int) -> None:
        """Let nobody hear of a socket any more."""
        self.selector.unregister(self._fds[number])

    def close(self) -> None:
        self.selector.close()
        for fd in self._fds:
            os.close(fd)


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def test_all_that_is_ready_is_handled(loop: Loop) -> None:
    handle(loop.selector.select(), loop.selector, lambda: False)
    assert sorted(loop.handled) == [0, 1, 2]


def test_what_an_earlier_handler_dropped_is_not_handled(loop: Loop) -> None:
    ready = loop.selector.select()
    loop.drop(1)
    handle(ready, loop.selector, lambda: False)
    assert sorted(loop.handled) == [0, 2]


def test_nothing_is_handled_that_is_the_successors(loop: Loop) -> None:
    """A QEMU guest behind an IOMMU had no traffic any more: its answer came to the successor."""
    handle(loop.selector.select(), loop.selector, lambda: len(loop.handled) == 1)
    assert len(loop.handled) == 1
