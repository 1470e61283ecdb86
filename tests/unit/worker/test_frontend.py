# SPDX-License-Identifier: Apache-2.0
"""When a worker asks for its front-end. It never connects itself: it has no file system."""

import selectors
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from ovs_vhost_plugin.worker.frontend import FrontEnd

NOW = 50.0


class Asking:
    def __init__(self) -> None:
        self.asked = 0
        self.errors: list[Any] = []
        device: Any = SimpleNamespace(
            running=False, attach=lambda session: None, detach=lambda: None, settle=lambda: None
        )
        self.selector = selectors.DefaultSelector()
        offer: Any = lambda: SimpleNamespace(queues=1)  # noqa: E731
        self.front_end = FrontEnd(
            "/nowhere",
            None,
            device,
            self.selector,
            make_offer=offer,
            on_error=self.errors.append,
            ask_daemon=self.ask,
        )

    def ask(self) -> bool:
        self.asked += 1
        return True

    def connect(self, now: float) -> socket.socket:
        ours, theirs = socket.socketpair()
        self.front_end.adopt(ours, now)
        return theirs

    def serve(self, now: float) -> None:
        for key, _ in self.selector.select(0):
            key.data(now)

    def connections(self, lived: float, count: int) -> list[float]:
        """How long it waited before it asked, each time its front-end had hung up."""
        waits = []
        now = NOW
        for _ in range(count):
            self.connect(now).close()
            now += lived
            self.serve(now)
            due = self.front_end.due(now)
            assert due is not None
            waits.append(due)
            now += due
            before = self.asked
            self.front_end.run(now)
            assert self.asked == before + 1
        return waits


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asking]:
    monkeypatch.setattr("ovs_vhost_plugin.worker.frontend.Session", lambda offer: SimpleNamespace())
    made = Asking()
    yield made
    made.front_end.close(NOW)
    made.selector.close()


def test_it_asks_at_its_start_and_once(asking: Asking) -> None:
    assert asking.front_end.due(NOW) == 0.0
    for tick in range(100):
        asking.front_end.run(NOW + tick)
    assert asking.asked == 1 and asking.front_end.due(NOW) is None
    assert asking.front_end.status == "connecting"


def test_it_asks_each_daemon_that_comes_while_it_waits(asking: Asking) -> None:
    asking.front_end.daemon_came()
    assert asking.asked == 0  # it has not begun
    asking.front_end.run(NOW)
    asking.front_end.daemon_came()
    assert asking.asked == 2
    theirs = asking.connect(NOW)
    asking.front_end.daemon_came()
    asking.front_end.run(NOW + 100)
    assert asking.asked == 2 and asking.front_end.status == "connected"
    theirs.close()


def test_it_asks_again_ever_more_slowly_when_its_front_end_hangs_up(asking: Asking) -> None:
    asking.front_end.run(NOW)
    assert asking.connections(0.5, 6) == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    assert asking.connections(60.0, 2) == pytest.approx([0.1, 0.1])


def test_a_second_connection_is_closed(asking: Asking) -> None:
    asking.front_end.run(NOW)
    first = asking.connect(NOW)
    second = asking.connect(NOW)
    assert second.recv(1) == b""
    assert asking.front_end.connections == 1
    first.close()
    second.close()
