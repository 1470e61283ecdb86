# SPDX-License-Identifier: Apache-2.0
"""When a worker asks for its front-end. It never connects itself: it has no file system."""

import contextlib
import selectors
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.worker.fake_outbox import FakeOutbox

from ovs_vhost_plugin.ipc.reports import AskConnection
from ovs_vhost_plugin.worker.complaints import Complaints
from ovs_vhost_plugin.worker.frontend import FrontEndLink

NOW = 50.0


class Asking:
    def __init__(self, listener: socket.socket | None = None) -> None:
        self.outbox = FakeOutbox()
        self.complaints = Complaints()
        self.errors: list[Any] = []
        self.complaints.note = self.errors.append  # type: ignore[method-assign]
        self.device: Any = SimpleNamespace(
            running=False,
            rings=SimpleNamespace(has_run=False),
            attach=lambda session: None,
            detach=lambda: None,
            start_pending=lambda: None,
        )
        self.selector = selectors.DefaultSelector()
        offer: Any = lambda: SimpleNamespace(queue_pairs=1)  # noqa: E731
        self.front_end = FrontEndLink(
            "/nowhere",
            listener,
            self.device,
            self.selector,
            outbox=self.outbox,  # type: ignore[arg-type]
            complaints=self.complaints,
            make_offer=offer,
        )

    @property
    def asks(self) -> bool:
        """Whether each daemon that comes is asked for a connection."""
        return AskConnection in self.outbox.states

    def connect(self, now: float) -> socket.socket:
        ours, theirs = socket.socketpair()
        self.front_end.adopt(ours, now)
        return theirs

    def serve(self, now: float) -> None:
        for key, _ in self.selector.select(0):
            if key.fd in self.selector.get_map():  # as the worker's loop does
                key.data(now)

    def connections(self, lived: float, count: int) -> list[float]:
        """How long it waited before it asked, each time its front-end had hung up."""
        waits = []
        now = NOW
        for _ in range(count):
            self.connect(now).close()
            now += lived
            self.serve(now)
            due = self.front_end.get_timer()
            assert due is not None
            waits.append(due - now)
            now = due
            assert not self.asks
            self.front_end.handle_timer(now)
            assert self.asks
        return waits


def session_of(offered: Any) -> Any:
    return SimpleNamespace(offer=offered, counted_pairs=False, set_up=False, refused=False)


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asking]:
    monkeypatch.setattr("ovs_vhost_plugin.worker.frontend.Session", session_of)
    made = Asking()
    yield made
    made.front_end.close(NOW)
    made.selector.close()


def test_it_asks_from_its_start_until_it_has_a_front_end(asking: Asking) -> None:
    assert asking.front_end.get_timer() == 0.0 and not asking.asks
    for tick in range(100):
        asking.front_end.handle_timer(NOW + tick)
        assert asking.asks
    assert asking.front_end.get_timer() is None
    assert asking.front_end.status == "connecting"
    theirs = asking.connect(NOW)
    asking.front_end.handle_timer(NOW + 100)
    assert not asking.asks and asking.front_end.status == "connected"
    theirs.close()


def test_it_asks_again_ever_more_slowly_when_its_front_end_hangs_up(asking: Asking) -> None:
    asking.front_end.handle_timer(NOW)
    assert asking.connections(0.5, 6) == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    assert asking.connections(60.0, 2) == pytest.approx([0.1, 0.1])


def test_it_asks_ever_more_slowly_when_its_front_end_breaks_the_protocol(asking: Asking) -> None:
    now, waits = NOW, []
    for _ in range(9):
        with asking.connect(now) as theirs:
            theirs.send(b"\xff" * 12)
            asking.serve(now)
        due = asking.front_end.get_timer()
        assert due is not None
        waits.append(due - now)
        now = due
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])
    assert len(asking.errors) == 9


def test_a_second_connection_is_closed(asking: Asking) -> None:
    asking.front_end.handle_timer(NOW)
    first = asking.connect(NOW)
    second = asking.connect(NOW)
    assert second.recv(1) == b""
    assert asking.front_end.connections == 1
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("session", "has_run", "lived", "named"),
    [
        ({"counted_pairs": True}, False, 0.1, True),
        ({"counted_pairs": True, "set_up": True}, False, 0.1, False),
        ({"counted_pairs": True, "refused": True}, False, 0.1, False),
        ({"counted_pairs": True}, False, 60.0, False),
        ({"counted_pairs": True, "set_up": True}, True, 0.1, False),
        ({}, False, 0.1, False),
    ],
    ids=[
        "gives up",
        "has a NIC already",
        "was refused something",
        "was there for long",
        "has run",
        "only looks",
    ],
)
def test_a_front_end_that_counts_the_pairs_and_hangs_up_is_named(
    asking: Asking, session: dict[str, bool], has_run: bool, lived: float, named: bool
) -> None:
    theirs = asking.connect(NOW)
    vars(asking.front_end.session).update(session)
    asking.device.rings.has_run = has_run
    theirs.close()
    asking.serve(NOW + lived)
    assert [error.name for error in asking.errors] == ["front-end-gives-up"] * named
    if named:
        assert "queue pairs there are (1)" in asking.errors[0].detail


def test_a_storm_is_named(asking: Asking) -> None:
    asking.front_end.handle_timer(NOW)
    asking.connections(0.1, 4)
    assert asking.errors == []
    asking.connections(0.1, 2)
    assert [error.name for error in asking.errors] == ["front-end-gives-up"] * 2


class Listening(Asking):
    """One in server mode, to which front-ends come that hang up again."""

    def __init__(self, path: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(128)
        super().__init__(self.listener)

    def visit(self, now: float, lived: float = 0.0) -> bool:
        """Whether one that comes now is served at once."""
        before = self.front_end.connections
        with socket.socket(socket.AF_UNIX) as theirs:
            theirs.connect(self.listener.getsockname())
            self.front_end.handle_timer(now)
            self.serve(now)
        if self.front_end.connections == before:
            return False
        self.front_end.handle_timer(now + lived)
        self.serve(now + lived)
        return True


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Listening]:
    monkeypatch.setattr("ovs_vhost_plugin.worker.frontend.Session", session_of)
    made = Listening(str(tmp_path / "socket"))
    yield made
    made.front_end.close(NOW)
    made.selector.close()
    made.listener.close()


def test_a_storm_is_let_in_once_a_second(listening: Listening) -> None:
    served = [listening.visit(NOW + tick / 100) for tick in range(100)]
    assert served == [True] * 5 + [False] * 95
    # From the last one that was let in; and who came meanwhile waits in the listener's queue.
    assert listening.front_end.get_timer() == pytest.approx(NOW + 1.04)
    listening.front_end.handle_timer(NOW + 1.04)
    listening.serve(NOW + 1.04)
    assert listening.front_end.connections == 6
    assert {error.name for error in listening.errors} == {"front-end-gives-up"}


def test_one_that_comes_by_a_timer_never_waits(listening: Listening) -> None:
    assert all(listening.visit(NOW + tick, lived=0.01) for tick in range(20))


def test_one_that_hangs_up_and_is_there_again_waits_as_well(listening: Listening) -> None:
    """Its next connection is there before the end of this one is read."""
    path = listening.listener.getsockname()
    theirs = socket.socket(socket.AF_UNIX)
    theirs.connect(path)
    for _ in range(20):
        listening.front_end.handle_timer(NOW)
        listening.serve(NOW)
        following = socket.socket(socket.AF_UNIX)
        following.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # the queue is full
            following.connect(path)
        theirs.close()
        theirs = following
    theirs.close()
    assert listening.front_end.connections == 5


def test_the_next_one_is_served_though_the_end_of_the_first_is_not_read_yet(
    listening: Listening,
) -> None:
    path = listening.listener.getsockname()
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.connect(path)
        listening.front_end.handle_timer(NOW)
        listening.serve(NOW)
        assert listening.front_end.connections == 1
        first.close()
        second.connect(path)
        listening.selector.get_key(listening.listener).data(NOW)  # before the first one's turn
        assert listening.front_end.connections == 2
        assert listening.errors == []


def test_a_usual_reconnect_is_let_in_at_once(listening: Listening) -> None:
    for tick in range(5):
        listening.visit(NOW + tick / 100)
    listening.device.rings.has_run = True
    assert listening.visit(NOW + 2)
    listening.device.rings.has_run = False
    assert listening.visit(NOW + 2.1) and listening.visit(NOW + 2.2)
