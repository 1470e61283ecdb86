# SPDX-License-Identifier: Apache-2.0
"""What the daemon is told, and when: events while it is there, states whenever it comes."""

import contextlib
import os
import selectors
from collections.abc import Iterator

import pytest

from ovs_vhost_plugin.ipc import reports
from ovs_vhost_plugin.ipc.reportpipe import ReportReader
from ovs_vhost_plugin.ipc.reports import (
    RATES,
    AskConnection,
    PortState,
    Rarp,
    Report,
    Stats,
    WorkerHello,
)
from ovs_vhost_plugin.ipc.spec import WorkerSpec
from ovs_vhost_plugin.worker.outbox import Outbox

HELLO = WorkerHello("1", WorkerSpec("vhu0", "client", "/vm.sock", 1))
RARP = Rarp(b"\x52\x54\0\0\0\1", 100.0)
BURST = RATES[Rarp][1] // 2


class Daemon:
    """The daemon's end of a pipe."""

    def __init__(self, worker: "Worker") -> None:
        self.reader = ReportReader()
        worker.outbox.open(os.dup(self.reader.writer), HELLO)
        self.reader.give_away()

    def hears(self) -> list[Report]:
        said, _ = self.reader.receive(1 << 20)
        return [reports.decode(report) for report, _ in said]

    def close(self) -> None:
        self.reader.close()


class Worker:
    def __init__(self) -> None:
        self.now = 100.0
        self.selector = selectors.DefaultSelector()
        self.outbox = Outbox(self.selector, lambda: self.now)

    def daemon(self) -> "contextlib.closing[Daemon]":
        return contextlib.closing(Daemon(self))

    def wake(self) -> None:
        """Sleep as the outbox says."""
        due = self.outbox.get_timer()
        assert due is not None and due > self.now
        self.now = due + 0.001
        self.outbox.handle_timer(self.now)


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.outbox.close()
    assert not made.selector.get_map()
    made.selector.close()


def test_an_event_is_told_at_once(worker: Worker) -> None:
    with worker.daemon() as daemon:
        assert worker.outbox.tell(RARP) and worker.outbox.tell(Stats(1, {}))
        assert daemon.hears() == [HELLO, RARP, Stats(1, {})]
        assert worker.outbox.get_timer() is None


def test_of_a_flood_the_latest_is_told_in_its_time(worker: Worker) -> None:
    with worker.daemon() as daemon:
        for number in range(BURST + 5):
            assert worker.outbox.tell(Rarp(bytes([0x52, 0x54, 0, 0, 0, number]), 100.0))
        assert len(daemon.hears()) == 1 + BURST
        worker.wake()
        assert daemon.hears() == [Rarp(bytes([0x52, 0x54, 0, 0, 0, BURST + 4]), 100.0)]
        worker.now += 100
        worker.outbox.handle_timer(worker.now)
        assert daemon.hears() == [] and worker.outbox.get_timer() is None


def test_an_event_that_nobody_hears_is_said_to_be_so_and_not_kept(worker: Worker) -> None:
    assert not worker.outbox.tell(RARP)
    with worker.daemon() as daemon:
        assert daemon.hears() == [HELLO]


def test_a_daemon_that_has_just_gone_is_none(worker: Worker) -> None:
    """The worker has not seen it yet: its own tap has to do."""
    with worker.daemon():
        pass
    assert worker.outbox.is_open
    assert not worker.outbox.tell(RARP) and not worker.outbox.is_open


def test_a_state_is_told_when_it_changes_and_to_each_daemon(worker: Worker) -> None:
    here, gone = PortState("connected"), PortState("connecting")
    worker.outbox.keep(gone)
    with worker.daemon() as daemon:
        assert daemon.hears() == [HELLO, gone]
        for state in (gone, here, here, gone):
            worker.outbox.keep(state)
        assert daemon.hears() == [here, gone]
    with worker.daemon() as daemon:
        assert daemon.hears() == [HELLO, gone]


def test_a_state_that_is_again_as_the_daemon_knows_it_is_not_told_late(worker: Worker) -> None:
    with worker.daemon() as daemon:
        for number in range(RATES[PortState][1] // 2):
            worker.outbox.keep(PortState("connected", errors=number))
        told = daemon.hears()[-1]
        worker.outbox.keep(PortState("running"))
        assert worker.outbox.get_timer() is not None
        worker.outbox.keep(told)
        assert worker.outbox.get_timer() is None and daemon.hears() == []


def test_what_is_asked_for_is_asked_of_each_daemon_until_it_has_come(worker: Worker) -> None:
    worker.outbox.keep(AskConnection())
    for _ in range(2):
        with worker.daemon() as daemon:
            assert daemon.hears() == [HELLO, AskConnection()]
    worker.outbox.forget(AskConnection)
    with worker.daemon() as daemon:
        assert daemon.hears() == [HELLO]
        worker.outbox.keep(AskConnection())
        worker.outbox.forget(AskConnection)
        worker.outbox.keep(AskConnection())
        assert daemon.hears() == [AskConnection()] * 2


def test_a_daemon_that_reads_late_is_waited_for(worker: Worker) -> None:
    stats = Stats(1, {"x": ["y" * 200] * 150})
    with worker.daemon() as daemon:
        told = 0
        while not worker.selector.get_map():
            assert worker.outbox.tell(stats)
            told += 1
        heard: list[Report] = []
        while len(heard) < 1 + told:
            heard += daemon.hears()
            for key, _ in worker.selector.select(0):
                key.data(worker.now)
        assert heard == [HELLO, *[stats] * told] and not worker.selector.get_map()
