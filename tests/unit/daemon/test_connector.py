# SPDX-License-Identifier: Apache-2.0
"""When workers are connected: at once, when something has changed, ever more slowly after what
refuses, and never without having asked."""

import os
import socket
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from support.daemon.ports import PORT
from support.daemon.world import FakeWays

from ovs_vhost_plugin.daemon.connector import (
    GOOD_AFTER,
    LONGEST_PAUSE,
    PAUSES,
    Connector,
    Obstacle,
)
from ovs_vhost_plugin.daemon.events import Ended, Heard
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.reconcile import worker_spec
from ovs_vhost_plugin.daemon.sockets.reach import Nobody
from ovs_vhost_plugin.daemon.sockets.sockpath import OnStep
from ovs_vhost_plugin.daemon.sockets.sockpolicy import SocketError, SocketErrorName
from ovs_vhost_plugin.ipc.commands import Connected
from ovs_vhost_plugin.ipc.reports import AskConnection

NOW = 1000.0


class Link:
    def __init__(self, port: PortSpec) -> None:
        self.spec: Any = worker_spec(port)
        self.told_to_quit = False
        self.reads = True
        self.sent: list[tuple[float, int]] = []

    def send(self, command: Connected, now: float, fds: tuple[int, ...] = ()) -> bool:
        assert command == Connected() and len(fds) == 1
        if not self.reads:
            return False
        self.sent.append((now, os.fstat(fds[0]).st_ino))
        return True


class World:
    """Ports with their workers, and front-ends that are there or not."""

    def __init__(self) -> None:
        self.ports = {"vhu0": PORT}
        self.links: dict[str, Any] = {"vhu0": Link(PORT)}
        self.there = False
        self.nobody = Nobody.ABSENT
        self.error: SocketError | None = None
        self.tried: list[tuple[str, str]] = []
        self.disposed: list[int] = []
        self.counters: Counter[str] = Counter()
        self.chance = 1.0
        self.ways = FakeWays()
        self.may_try = True
        self.connector = Connector(
            *(self.links, self.reach, self.ways, self.counters),
            *(lambda: self.chance, self.dispose, lambda: self.may_try),
        )

    def reach(self, path: str, owner: str, on_step: OnStep) -> socket.socket | Nobody:
        self.tried.append((path, owner))
        if self.error is not None:
            raise self.error
        return socket.socket(socket.AF_UNIX) if self.there else self.nobody

    def dispose(self, fd: int) -> None:
        self.disposed.append(os.fstat(fd).st_ino)
        os.close(fd)

    def ask(self, now: float, name: str = "vhu0") -> None:
        self.connector.take([Heard(name, AskConnection())], now)

    def run(self, now: float) -> None:
        self.connector.run(self.ports, now)

    def live(self, now: float, until: float) -> None:
        """Run whenever that is asked for."""
        self.run(now)
        while (wake := self.connector.get_timer()) is not None and wake <= until:
            now = max(wake, now + 0.001)
            self.run(now)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def link(world: World) -> Link:
    found: Link = world.links["vhu0"]
    return found


def test_nobody_is_connected_who_has_not_asked(world: World) -> None:
    world.there = True
    world.run(NOW)
    assert not world.tried and world.connector.get_timer() is None


def test_who_asks_is_connected_at_once_and_once(world: World, link: Link) -> None:
    world.there = True
    world.ports["vhu0"] = replace(PORT, socket_owner="qemu")
    world.ask(NOW)
    world.live(NOW, NOW + 100)
    assert world.tried == [(PORT.path, "qemu")]
    assert [at for at, _ in link.sent] == [NOW]
    # What was handed over is closed elsewhere: its front-end may have had it long enough.
    assert world.disposed == [inode for _, inode in link.sent]


def test_a_front_end_that_is_not_there_is_no_error_and_wakes_nobody(
    world: World, link: Link
) -> None:
    world.ask(NOW)
    world.run(NOW)
    assert len(world.tried) == 1 and world.ways.followed == {"vhu0"}
    assert world.connector.get_timer() is None
    world.run(NOW + 1000)
    assert len(world.tried) == 1
    assert not world.connector.errors and not world.counters

    world.there, world.ways.news = True, {"vhu0"}
    world.run(NOW + 1001)
    assert [at for at, _ in link.sent] == [NOW + 1001]
    assert not world.ways.followed and world.connector.get_timer() is None


def test_a_change_that_is_put_off_is_asked_for_again(world: World) -> None:
    world.ways.read_at = NOW + 1
    world.run(NOW)
    assert world.connector.get_timer() == NOW + 1


def test_a_socket_that_refuses_is_tried_after_milliseconds_and_then_ever_later(
    world: World,
) -> None:
    world.nobody = Nobody.NOT_LISTENING
    world.ask(NOW)
    world.live(NOW, NOW + 0.32)
    assert len(world.tried) == 7  # now, and 5, 15, 35, 75, 155 and 315 ms later
    world.live(NOW + 0.33, NOW + 100)
    world.tried.clear()
    world.live(NOW + 100, NOW + 160)
    assert 6 <= len(world.tried) <= 7
    assert not world.connector.errors

    world.tried.clear()
    world.ways.news = {"vhu0"}  # somebody has bound another socket, and listens in a moment
    world.live(NOW + 161, NOW + 161.1)
    assert len(world.tried) == 5


def test_what_changes_without_end_is_tried_as_often_as_it_changes_and_not_more(
    world: World,
) -> None:
    world.nobody = Nobody.NOT_LISTENING
    world.ask(NOW)
    for tick in range(20):
        world.ways.news = {"vhu0"}
        world.live(NOW + tick / 20, NOW + (tick + 0.9) / 20)
    assert len(world.tried) <= 20 + 8  # and not five times as many


def test_a_full_queue_is_tried_at_least_each_second(world: World) -> None:
    world.nobody = Nobody.BUSY
    world.ask(NOW)
    world.live(NOW, NOW + 30)
    world.tried.clear()
    world.live(NOW + 30, NOW + 90)
    assert 58 <= len(world.tried) <= 62


def test_without_a_watch_the_socket_is_looked_for_and_that_has_a_name(
    world: World, link: Link
) -> None:
    world.ways.refusals["vhu0"] = "inotify: x"
    world.ask(NOW)
    world.live(NOW, NOW + 60)
    assert 58 <= len(world.tried) <= 70
    assert world.connector.errors == {"vhu0": "socket-unwatched: inotify: x"}
    assert world.counters == {"socket-unwatched": 1}

    world.ways.refusals.clear()
    world.live(NOW + 61, NOW + 62)
    assert not world.connector.errors and world.connector.get_timer() is None


def test_chance_keeps_tries_apart_and_the_clock_has_their_ends_fall_together(
    world: World,
) -> None:
    world.nobody = Nobody.NOT_LISTENING
    for number in range(1000):
        port = replace(PORT, name=f"p{number}")
        world.ports[port.name], world.links[port.name] = port, Link(port)
        world.ask(NOW, port.name)
    chance = Random(1)
    wakes: Counter[float] = Counter()
    now = NOW
    while now < NOW + 60:
        before = len(world.tried)
        world.chance = chance.random()
        world.run(now)
        wakes[now] += len(world.tried) - before
        at = world.connector.get_timer()
        assert at is not None
        now = max(at, now + 0.001)
    late = {at: tried for at, tried in wakes.items() if at > NOW + 30}
    assert len(late) <= 30 * 16 + 1  # each wakes the whole daemon
    assert sum(late.values()) <= 1000 * (30 / (0.75 * 10) + 1)


def test_a_socket_that_has_to_be_mended_is_named_until_it_is(world: World, link: Link) -> None:
    world.error = SocketError(SocketErrorName.NOT_TRUSTED, "do this")
    world.ask(NOW)
    world.live(NOW, NOW + 10)
    assert world.connector.errors == {"vhu0": "socket-not-trusted: do this"}
    assert world.counters == {"socket-not-trusted": 1}
    world.error = None
    world.live(NOW + 11, NOW + 11 + PAUSES[Obstacle.TO_MEND].last)
    assert not world.connector.errors and not link.sent
    world.error, world.ways.news = SocketError(SocketErrorName.DENIED, "x"), {"vhu0"}
    world.live(NOW + 23, NOW + 24)
    assert world.connector.errors == {"vhu0": "socket-denied: x"}
    world.error, world.there, world.ways.news = None, True, {"vhu0"}
    world.live(NOW + 25, NOW + 26)
    assert not world.connector.errors and len(link.sent) == 1
    assert world.counters == {"socket-not-trusted": 1, "socket-denied": 1}


def test_a_worker_that_wears_out_its_connections_is_slowed_down(world: World, link: Link) -> None:
    world.there = True
    for tick in range(10 * 60):
        world.ask(NOW + tick / 10)
        world.ask(NOW + tick / 10)  # asking twice brings nothing
        world.run(NOW + tick / 10)
    pauses = [b[0] - a[0] for a, b in zip(link.sent, link.sent[1:], strict=False)]
    assert pauses[:3] == pytest.approx([0.2, 0.3, 0.5], abs=0.11)
    assert max(pauses) <= LONGEST_PAUSE + 0.2
    assert len(link.sent) <= 7 + 60 / LONGEST_PAUSE
    # One that lived is no storm, and what comes after it begins anew.
    world.tried.clear()
    last = link.sent[-1][0] + LONGEST_PAUSE + GOOD_AFTER
    world.run(last)
    last += GOOD_AFTER
    world.ask(last)
    world.run(last)
    assert link.sent[-1][0] == last


def test_a_worker_that_does_not_read_gets_another_one_later(world: World, link: Link) -> None:
    world.there, link.reads = True, False
    world.ask(NOW)
    world.live(NOW, NOW + 5)
    assert 2 < len(world.disposed) == len(world.tried) < 12
    world.may_try = False
    before = len(world.tried)
    world.live(NOW + 5, NOW + 6)
    assert len(world.tried) == before
    world.may_try = True
    link.reads = True
    world.live(NOW + 6, NOW + 20)
    assert len(link.sent) == 1


def test_who_has_ended_is_forgotten(world: World, link: Link) -> None:
    world.error = SocketError(SocketErrorName.DENIED, "x")
    world.ask(NOW)
    world.run(NOW)
    world.connector.take([Ended("vhu0", "", 1.0)], NOW)
    world.error, world.there = None, True
    world.live(NOW, NOW + 10)
    assert not link.sent and not world.connector.errors
    # Another daemon has the lock meanwhile.
    world.there = False
    world.ask(NOW + 11)
    world.run(NOW + 11)
    world.connector.let_go()
    assert not world.ways.followed
    world.there = True
    world.live(NOW + 21, NOW + 30)
    assert not link.sent
    # Also where nobody tells.
    world.ask(NOW + 31)
    world.links.clear()
    world.live(NOW + 31, NOW + 40)
    world.links["vhu0"] = link
    world.live(NOW + 41, NOW + 50)
    assert not link.sent


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/elsewhere"},
        {"mode": "server"},
        None,  # the row is gone or wrong; its worker, if it stays, goes on with the old one
    ],
)
def test_only_a_worker_that_serves_its_row_is_connected(
    world: World, link: Link, change: dict[str, Any] | None
) -> None:
    world.there = True
    world.ask(NOW)
    world.ports = {} if change is None else {"vhu0": replace(PORT, **change)}
    world.live(NOW, NOW + 10)
    assert not world.tried and world.connector.get_timer() is None
    world.ports = {"vhu0": PORT}
    world.run(NOW + 11)
    assert len(link.sent) == 1


@pytest.mark.parametrize("state", [{"told_to_quit": True}, {"spec": None}])
def test_a_worker_that_goes_or_is_not_known_is_not_connected(
    world: World, link: Link, state: dict[str, Any]
) -> None:
    for name, value in state.items():
        setattr(link, name, value)
    world.there = True
    world.ask(NOW)
    world.live(NOW, NOW + 10)
    assert not world.tried
