# SPDX-License-Identifier: Apache-2.0
"""Whatever its successor does, a worker gives its port away whole, or serves its guest on."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.worker.handover_port import HandoverPort, running

from ovs_vhost_plugin.ipc.reports import HandedOver
from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.spec import BackendRequest, FrontendRequest
from ovs_vhost_plugin.worker.handover import give
from ovs_vhost_plugin.worker.handover.give import BIRTH_PATIENCE, LULL_PATIENCE, Giving
from ovs_vhost_plugin.worker.handover.messages import (
    FORMAT,
    FROM_PREDECESSOR,
    FROM_SUCCESSOR,
    MOST_FDS,
    GivenAll,
    SuccessorPrepared,
    SuccessorReady,
    SuccessorRefuses,
)
from ovs_vhost_plugin.worker.handover.wire import HandoverError, HandoverSocket, PeerGoneError

Successor = HandoverSocket[Any, Any]


class Giver:
    """A running port, and what it answers to its daemon."""

    def __init__(self, directory: Path) -> None:
        self.port = running(HandoverPort(directory, clock=time.monotonic))
        self.answers: list[HandedOver] = []
        self.port.parts.outbox.tell = self._told  # type: ignore[method-assign]
        self.giving = Giving(self.port.parts, self.port.selector, time.monotonic)

    def _told(self, report: Any) -> bool:
        self.answers.append(report)
        return True

    def begin(self, number: int = 7) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.giving.begin(number, ours.detach())
        return theirs

    def run(self) -> None:
        """Handle what has come."""
        for key, _ in self.port.selector.select(0):
            key.data(time.monotonic())
        self.giving.handle_timer(time.monotonic())

    @property
    def runs(self) -> bool:
        return self.port.pairs[0].running

    def hand_over_to(self, successor: Callable[[Successor], object]) -> HandedOver:
        """Hand over to a successor that is ready and then does something; return the answer."""
        wire: Successor = HandoverSocket(
            self.begin().detach(), FROM_SUCCESSOR, FROM_PREDECESSOR, most_fds=MOST_FDS
        )
        wire.send(SuccessorReady(), later())

        def live() -> None:
            with contextlib.closing(wire), contextlib.suppress(HandoverError):
                successor(wire)

        thread = threading.Thread(target=live)
        thread.start()
        self.run()
        thread.join()
        (answer,) = self.answers
        return answer


@pytest.fixture
def giver(tmp_path: Path) -> Iterator[Giver]:
    made = Giver(tmp_path)
    yield made
    made.port.close()


def later() -> float:
    return time.monotonic() + 30


def take_all(wire: Successor) -> list[str]:
    """Take everything; return the names of all messages."""
    names = []
    while True:
        message, fds = wire.receive(later())
        for fd in fds:
            os.close(fd)
        names.append(message.WIRE_NAME)
        if isinstance(message, GivenAll):
            return names


def test_a_successor_that_prepares_gets_the_port(giver: Giver) -> None:
    heard: list[str] = []

    def successor(wire: Successor) -> None:
        take_all(wire)
        assert not giver.runs, "the rings stand still"
        wire.send(SuccessorPrepared(), later())
        heard.append(wire.receive(later())[0].WIRE_NAME)
        with pytest.raises(PeerGoneError):
            wire.receive(later())

    assert giver.hand_over_to(successor) == HandedOver(7, "done")
    assert heard == ["commit"]
    assert giver.giving.done and not giver.runs


def prepare(wire: Successor) -> None:
    take_all(wire)
    wire.send(SuccessorPrepared(), later())
    wire.receive(later())


def refuse(wire: Successor) -> None:
    take_all(wire)
    wire.send(SuccessorRefuses("no such features"), later())


def refuse_at_once(wire: Successor) -> None:
    wire.send(SuccessorRefuses("no such features"), later())
    take_all(wire)


def prepare_twice(wire: Successor) -> None:
    take_all(wire)
    wire.send(SuccessorReady(), later())


def babble(wire: Successor) -> None:
    take_all(wire)
    wire._sock.send(b"[")


def pass_an_fd(wire: Successor) -> None:
    take_all(wire)
    said = json.dumps(FROM_SUCCESSOR.encode(SuccessorPrepared())).encode()
    socket.send_fds(wire._sock, [said], [0])


@pytest.mark.parametrize(
    ("successor", "why"),
    [
        (refuse, "no such features"),
        (refuse_at_once, "no such features"),
        (prepare_twice, "says something else"),
        (babble, "no JSON"),
        (pass_an_fd, "too many bytes or fds"),
    ],
)
def test_a_successor_that_does_not_prepare_changes_nothing(
    giver: Giver, successor: Callable[[Successor], object], why: str
) -> None:
    fds = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    stood, news = [ring.position for ring in giver.port.pairs[0].rings], giver.port.observer.news[:]
    answer = giver.hand_over_to(successor)
    assert (answer.outcome, why in answer.why) == ("failed", True), answer
    assert not giver.giving.done and giver.runs
    assert all(
        a < b for a, b in zip(stood, (r.position for r in giver.port.pairs[0].rings), strict=True)
    )
    assert giver.port.observer.news == news, "no start is reported"
    assert len(os.listdir("/proc/self/fd")) <= fds  # noqa: PTH208
    # And the next one may have it.
    giver.answers.clear()
    assert giver.hand_over_to(prepare).outcome == "done"


@pytest.mark.parametrize("step", range(0, 40, 3))
def test_a_successor_that_ends_at_any_step_changes_nothing(giver: Giver, step: int) -> None:
    def successor(wire: Successor) -> None:
        for _ in range(step):
            message, fds = wire.receive(later())
            for fd in fds:
                os.close(fd)
            if isinstance(message, GivenAll):
                return

    answer = giver.hand_over_to(successor)
    assert (answer.outcome, giver.runs) == ("failed", True), answer


def test_a_silent_successor_has_its_time(giver: Giver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(give, "PATIENCE", 0.05)
    monkeypatch.setattr(give, "PATIENCE_PER_PAIR", 0.0)
    done = threading.Event()

    def successor(wire: Successor) -> None:
        take_all(wire)
        done.wait(30)

    timer = threading.Timer(0.5, done.set)
    timer.start()
    answer = giver.hand_over_to(successor)
    assert answer.outcome == "failed" and "says nothing" in answer.why
    assert giver.runs


def test_a_successor_that_is_never_born_is_given_up(giver: Giver) -> None:
    with giver.begin():
        at = giver.giving.get_timer()
        assert at is not None and at <= time.monotonic() + BIRTH_PATIENCE
        giver.giving.handle_timer(at)
        assert [a.outcome for a in giver.answers] == ["failed"] and giver.runs
        assert giver.giving.get_timer() is None
    with giver.begin(8) as theirs:
        theirs.close()
        giver.run()
    assert (giver.answers[-1].id, giver.answers[-1].outcome) == (8, "failed")


def test_a_second_handover_ends_the_first(giver: Giver) -> None:
    with giver.begin(1), giver.begin(2):
        assert [(a.id, a.outcome) for a in giver.answers] == [(1, "failed")]
        assert giver.runs


def test_a_successor_of_another_form_gets_nothing(giver: Giver) -> None:
    with giver.begin() as theirs:
        theirs.send(json.dumps(FROM_SUCCESSOR.encode(SuccessorReady(FORMAT + 1))).encode())
        giver.run()
        assert "form" in giver.answers[0].why and giver.runs
        assert theirs.recv(1) == b""


# -- busy -----------------------------------------------------------------------------------------


def half_a_message(port: HandoverPort) -> None:
    port.peers[0].send(spec.HEADER.pack(FrontendRequest.SET_FEATURES, spec.VERSION, 8))
    port.parts.front_end._serve(time.monotonic())


def unanswered(port: HandoverPort) -> None:
    port.parts.device.channel.ask(BackendRequest.CONFIG_CHANGE_MSG, b"", lambda _: None)


def hold(port: HandoverPort) -> None:
    port.parts.holding._queues.add(0)


def early(port: HandoverPort) -> None:
    port.parts.gate.early = True


def state(port: HandoverPort) -> None:
    reader, writer = os.pipe()
    port.parts.state.load(reader)
    os.close(writer)


def broken(port: HandoverPort) -> None:
    port.pairs[0].rx.state["fault"] = 1
    port.pairs[0].rx.take_fault()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (half_a_message, "half received"),
        (unanswered, "unanswered"),
        (hold, "are held"),
        (early, "about to run"),
        (state, "being moved"),
        (broken, "a ring is broken"),
    ],
)
def test_what_is_under_way_is_not_interrupted(
    giver: Giver, make: Callable[[HandoverPort], None], why: str
) -> None:
    make(giver.port)
    with giver.begin() as theirs:
        be_ready(giver, theirs)
        giver.giving.handle_timer(time.monotonic())
        assert not giver.answers, "it may end in a moment"
        at = giver.giving.get_timer()
        assert at is not None and at <= time.monotonic() + LULL_PATIENCE
        giver.giving.handle_timer(at)
        assert giver.answers[0].outcome == "busy" and why in giver.answers[0].why
        assert theirs.recv(1) == b"", "the successor sees the end"
    assert giver.runs
    giver.port.parts.holding._queues.clear()


def be_ready(giver: Giver, theirs: socket.socket) -> None:
    """Let the giver hear that its successor is ready, and nothing else."""
    theirs.send(json.dumps(FROM_SUCCESSOR.encode(SuccessorReady())).encode())
    for key, _ in giver.port.selector.select(0):
        if key.fd == giver.giving._socket.fileno():  # type: ignore[union-attr]
            key.data(time.monotonic())
            break


def test_a_successor_that_is_ready_twice_is_refused(giver: Giver) -> None:
    early(giver.port)
    with giver.begin() as theirs:
        be_ready(giver, theirs)
        be_ready(giver, theirs)
        assert giver.answers == [HandedOver(7, "failed", "its successor is ready twice")]
    assert giver.runs


def test_a_successor_that_ends_while_a_lull_is_awaited_is_given_up(giver: Giver) -> None:
    early(giver.port)
    theirs = giver.begin()
    be_ready(giver, theirs)
    theirs.close()
    giver.run()
    assert [answer.outcome for answer in giver.answers] == ["failed"]
    assert giver.runs and giver.giving.get_timer() is None


def test_what_is_under_way_ends_and_the_port_is_given(giver: Giver) -> None:
    early(giver.port)

    with giver.begin() as theirs:
        be_ready(giver, theirs)
        giver.giving.handle_timer(time.monotonic())
        assert giver.runs, "a lull is awaited"
        giver.port.parts.gate.early = False
        wire: Successor = HandoverSocket(
            theirs.detach(), FROM_SUCCESSOR, FROM_PREDECESSOR, most_fds=MOST_FDS
        )
        with contextlib.closing(wire), ThreadPoolExecutor(1) as pool:
            prepared = pool.submit(prepare, wire)
            giver.giving.handle_timer(time.monotonic())
            prepared.result()
    assert giver.answers == [HandedOver(7, "done")]
    assert giver.giving.done and giver.giving.get_timer() is None
