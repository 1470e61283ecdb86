# SPDX-License-Identifier: Apache-2.0
"""The daemon's link to a worker: phases, ends and their names, a worker that lies."""

import contextlib
import os
import select
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ovs_vhost_plugin.common import pidfile
from ovs_vhost_plugin.daemon.reconcile import Phase
from ovs_vhost_plugin.daemon.workers.link import HANG_ALARMS, WorkerLink
from ovs_vhost_plugin.daemon.workers.readiness import Readiness
from ovs_vhost_plugin.ipc import commands, reports, vitals
from ovs_vhost_plugin.ipc.channel import MAX_PACKET, Channel
from ovs_vhost_plugin.ipc.codec import codec_of
from ovs_vhost_plugin.ipc.commands import PROTOCOL, Configure, GetStats
from ovs_vhost_plugin.ipc.reportpipe import ReportWriter
from ovs_vhost_plugin.ipc.reports import (
    OTHERS,
    RATES,
    AskConnection,
    AskQueues,
    AskUserfaultfd,
    FirstReceived,
    GuestStations,
    HoldState,
    PortState,
    Rarp,
    Report,
    Started,
    Stats,
    WorkerHello,
)
from ovs_vhost_plugin.ipc.spec import PortSettings, WorkerSpec
from ovs_vhost_plugin.ipc.vitals import Vitals
from ovs_vhost_plugin.net.station import Station

NOW = 50.0
SPEC = WorkerSpec("vhu0", "client", "/x", 1, PortSettings(hold=True))
STATE = PortState("connecting", "/x")
MAC = bytes.fromhex("525400000001")


class Worker:
    """Both ends: the link, and the other end to speak as the worker."""

    def __init__(self, directory: Path, *, child: bool) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.record = directory / "pid"
        self.channel = Channel(theirs, max_fds=3)
        channel = Channel(ours, max_fds=0)
        spec = SPEC if child else None
        self.ready: Readiness[WorkerLink] = Readiness()
        self.link = WorkerLink(
            "vhu0", channel, spec, self.record, Vitals(), self.ready, NOW, child=child
        )
        ((hello, (pipe, self.vitals, self.alarm)),) = self.channel.receive()
        assert hello["op"] == "hello"
        self.pipe = pipe
        self.reports = ReportWriter(pipe)

    def reports_raw(self, **event: Any) -> list[Any]:
        self.reports.send(event)
        return self.link.receive(NOW)

    def says(self, report: Report) -> list[Any]:
        return self.reports_raw(**reports.encode(report))

    def hello(self, spec: WorkerSpec = SPEC) -> list[Any]:
        return self.says(WorkerHello("1", spec))

    def hangs_up(self, now: float = NOW) -> None:
        self.reports.close()
        self.link.receive(now)

    def last_words(self, words: str) -> None:
        os.pwrite(self.vitals, words.encode(), 4096)

    def pulse(self, busy_since: int) -> None:
        os.pwrite(self.vitals, busy_since.to_bytes(8, "little"), 0)

    def close(self) -> None:
        self.link.close()
        self.ready.close()
        self.channel.close()
        os.close(self.vitals)
        os.close(self.alarm)
        with contextlib.suppress(OSError):
            self.reports.close()


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Worker]:
    with contextlib.closing(Worker(tmp_path, child=True)) as worker:
        yield worker


@pytest.fixture
def adopted(tmp_path: Path) -> Iterator[Worker]:
    with contextlib.closing(Worker(tmp_path, child=False)) as worker:
        yield worker


def test_from_request_to_running(child: Worker) -> None:
    assert child.link.phase is Phase.REQUESTED
    child.link.born(77, NOW + 1)
    assert (child.link.phase, child.link.since) == (Phase.STARTING, NOW + 1)
    assert child.hello() == [WorkerHello("1", SPEC)]
    assert child.link.phase is Phase.RUNNING


def test_the_hello_may_be_faster_than_the_fork_server(child: Worker) -> None:
    child.hello()
    child.link.born(77, NOW)
    assert child.link.phase is Phase.RUNNING and child.link.pid == 77


def test_an_adopted_worker_says_what_it_serves(adopted: Worker) -> None:
    assert (adopted.link.phase, adopted.link.spec) == (Phase.STARTING, None)
    adopted.hello()
    assert (adopted.link.phase, adopted.link.spec) == (Phase.RUNNING, SPEC)


def test_states_are_kept(child: Worker) -> None:
    (state,) = child.says(STATE)
    assert state == STATE and child.link.state is state


def test_nothing_was_seen_in_the_future(child: Worker) -> None:
    assert child.says(Rarp(MAC, NOW - 1)) == [Rarp(MAC, NOW - 1)]
    assert child.says(Rarp(MAC, NOW + 1e9)) == [Rarp(MAC, NOW)]
    assert child.says(Started(0, at=NOW + 1)) == [Started(0, at=NOW)]
    assert child.says(FirstReceived(NOW + 1)) == [FirstReceived(NOW)]
    later = HoldState(1, True, (), {}, since=NOW + 1)
    assert child.says(later) == [HoldState(1, True, (), {}, since=NOW)]


def test_what_the_guest_uses_is_kept_until_it_is_told_anew(child: Worker) -> None:
    stations = (Station(MAC, 0, (bytes([10, 0, 0, 2]),)),)
    child.says(GuestStations(stations))
    child.says(STATE)
    assert child.link.stations == stations
    child.says(GuestStations(()))
    assert child.link.stations == ()


def test_settings_reach_the_worker_whole(child: Worker) -> None:
    settings = PortSettings(mtu=9000, finish_offloads=True, state=True)
    child.link.configure(settings, NOW)
    ((said, fds),) = child.channel.receive()
    assert commands.decode(said, fds) == Configure(settings)
    assert child.link.spec == replace(SPEC, settings=settings)


def test_quit_is_an_end_without_fault(child: Worker) -> None:
    child.link.quit(NOW)
    assert child.channel.receive() == [({"op": "quit"}, [])]
    assert child.link.phase is Phase.ENDING
    child.hangs_up()
    assert child.link.fault(0) == ""


def test_a_child_has_ended_when_the_fork_server_says_so(child: Worker) -> None:
    child.hangs_up(NOW + 3)
    assert (child.link.phase, child.link.since) == (Phase.ENDING, NOW + 3)
    assert not child.link.ended()


def test_an_adopted_worker_without_a_record_has_ended_with_its_channel(adopted: Worker) -> None:
    assert not adopted.link.ended()
    adopted.hangs_up()
    assert adopted.link.ended()


def test_an_adopted_worker_that_lives_has_not_ended(adopted: Worker) -> None:
    pidfile.write(adopted.record, os.getpid())  # this test's process, which lives
    adopted.hangs_up()
    assert adopted.link.phase is Phase.ENDING and not adopted.link.ended()


@pytest.mark.parametrize(
    ("status", "log", "fault"),
    [
        (-signal.SIGBUS, "", "memory-file-truncated: "),
        (None, "Fatal Python error: Bus error\n\nCurrent thread", "memory-file-truncated: "),
        (-signal.SIGSEGV, "", "worker-sigsegv: "),
        (-signal.SIGSYS, "", "worker-sigsys: it made a system call"),
        (70, "Traceback\nValueError: x\n", "worker-exit-70: ValueError: x"),
        (0, "", "worker-exit-0: it says no more"),
        (None, "", "worker-died: it says no more"),
        (1, "\x1b[2Jevil", "worker-exit-1: ?[2Jevil"),
    ],
)
def test_ends_have_names(child: Worker, status: int | None, log: str, fault: str) -> None:
    child.last_words(log)
    child.hangs_up()
    assert child.link.fault(status).startswith(fault)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{}\n", "no event"),
        (b"[]\n", "no JSON object"),
        (b"\n", "no JSON"),
        (b'{"event":"rarp","mac":"x","at":1}\n', "rarp"),
        (b'{"event":"stats","id":1,"stats":{}}\n', "nobody asked"),
        (b'{"event":"held","id":1,"frames":[],"left":0}\n', "nobody asked"),
    ],
)
def test_a_worker_that_breaks_the_protocol_is_on_its_way_out(
    child: Worker, line: bytes, words: str
) -> None:
    os.write(child.pipe, line)
    assert child.link.receive(NOW) == []
    assert child.link.phase is Phase.ENDING
    assert words in child.link.fault(-signal.SIGKILL)
    assert child.link.fault(-signal.SIGKILL).startswith("worker-channel: ")


def test_a_worker_that_claims_another_port_is_on_its_way_out(adopted: Worker) -> None:
    adopted.hello(WorkerSpec("vhu1", "client", "/x", 1, PortSettings(hold=True)))
    assert adopted.link.phase is Phase.ENDING and adopted.link.spec is None
    assert adopted.link.fault(None) == "worker-channel: it says it is vhu1"


def test_the_name_it_claims_is_made_fit_for_log_and_database(adopted: Worker) -> None:
    adopted.hello(replace(SPEC, name="\ud800\x1b[2J" + "x" * 50))
    fault = adopted.link.fault(None)
    assert fault.isascii() and fault.isprintable() and len(fault) < 300


def test_half_a_report_is_kept_and_a_long_one_is_none(child: Worker) -> None:
    os.write(child.pipe, b'{"event":"star')
    assert child.link.receive(NOW) == []
    os.write(child.pipe, b'ted","base":7,"sent":0,"moved_in":false,"further":false}\n')
    assert child.link.receive(NOW) == [Started(7)]
    for _ in range(MAX_PACKET // 4096 + 1):
        os.write(child.pipe, b"x" * 4096)
        child.link.receive(NOW)
    assert child.link.fault(None).startswith("worker-channel: a report of more than")


@pytest.mark.parametrize("kind", RATES)
def test_a_flood_of_any_kind_is_cut_off(child: Worker, kind: type[Report]) -> None:
    reports = (
        STATE,
        Started(0),
        FirstReceived(1.0),
        Rarp(MAC, 1.0),
        GuestStations(()),
        HoldState(1, True, (), {}),
        AskConnection(),
        AskQueues(2),
        AskUserfaultfd(),
    )
    (report,) = (one for one in reports if type(one) is kind)
    heard, most = 0, RATES[kind][1]
    while child.link.channel is not None:
        heard += len(child.says(report))
        assert heard <= most
    assert heard == most
    assert child.link.fault(None) == f"worker-channel: a flood of reports: {kind.WIRE_NAME}"


@pytest.mark.parametrize("kind", [[], {}, None, 1])
def test_what_is_no_kind_of_report_costs_the_worker_its_channel(child: Worker, kind: Any) -> None:
    child.reports_raw(event=kind)
    assert child.link.channel is None
    assert child.link.fault(None).startswith("worker-channel: ")


def test_a_report_of_a_later_release_is_passed_over_as_long_as_they_are_few(child: Worker) -> None:
    _, most = OTHERS
    for _ in range(most):
        assert child.reports_raw(event="of tomorrow", more=1) == []
    assert child.says(STATE) == [STATE] and child.link.release.ignored == most
    child.reports_raw(event="of tomorrow")
    assert child.link.fault(None) == "worker-channel: a flood of reports: of unknown kinds"


OF_2 = {
    "event": "hello",
    "version": "0.0",
    "protocol": 2,
    "spec": codec_of(WorkerSpec).encode(SPEC),
}


def test_a_worker_of_the_version_before_is_adopted(adopted: Worker) -> None:
    adopted.reports_raw(**OF_2)
    link = adopted.link
    assert (link.phase, link.spec, link.release.protocol, link.release.build) == (
        Phase.RUNNING,
        SPEC,
        2,
        "",
    )
    assert link.knows(GetStats) and link.knows(Configure)


def test_an_adopted_worker_gets_only_the_settings_that_it_has(adopted: Worker) -> None:
    """Protocol 2 takes exactly its own settings, and a release may have more or fewer."""
    settings = {"mtu": None, "hold": True, "link_up": True, "of_tomorrow": 5}
    adopted.reports_raw(**{**OF_2, "spec": {**OF_2["spec"], "settings": settings}})
    wanted = PortSettings(mtu=9000, any_memory=True)
    adopted.link.configure(wanted, NOW)
    ((said, _),) = adopted.channel.receive()
    assert said == {
        "op": "configure",
        "settings": {"mtu": 9000, "hold": False, "link_up": True},
    }
    assert adopted.link.spec == replace(SPEC, settings=wanted), "it is not told again and again"


def test_a_command_that_a_worker_does_not_know_is_not_sent(adopted: Worker) -> None:
    adopted.says(WorkerHello("1", SPEC, commands=("hello", "quit")))
    assert not adopted.link.send(GetStats(1), NOW)
    assert adopted.channel.receive() == []
    assert adopted.link.channel is not None


@pytest.mark.parametrize("versions", [{"protocol": 1}, {"protocol": 99, "oldest": PROTOCOL + 1}])
def test_a_worker_outside_of_the_versions_is_ended(
    adopted: Worker, versions: dict[str, int]
) -> None:
    adopted.reports_raw(**{**OF_2, **versions})
    assert adopted.link.phase is Phase.ENDING
    assert "it speaks version" in adopted.link.fault(None)


def test_a_worker_of_a_later_release_that_this_daemon_can_serve_is_adopted(adopted: Worker) -> None:
    adopted.reports_raw(**{**OF_2, "protocol": 99, "oldest": PROTOCOL, "more": []})
    assert adopted.link.phase is Phase.RUNNING


def test_a_flood_of_bytes_is_cut_off(child: Worker) -> None:
    """Few reports, each as long as may be."""
    v4, v6 = ([bytes([0x2F] * (size - 1) + [n]) for n in range(200, 208)] for size in (4, 16))
    report = reports.encode(GuestStations((Station(MAC, 0, tuple(v4), tuple(v6)),) * 64))
    second = 0
    while child.link.channel is not None:
        second += 1
        assert second < 1000, "so many bytes are no flood"
        child.reports.send(report)
        child.link.receive(NOW + second / 10)
    assert child.link.fault(None) == "worker-channel: a flood of reports: bytes"


def test_a_slow_stream_is_no_flood(child: Worker) -> None:
    for second in range(1000):
        child.reports.send(reports.encode(Started(0)))
        assert child.link.receive(NOW + second) == [Started(0)]


def test_an_answer_to_each_question_is_no_flood(child: Worker) -> None:
    for number in range(1000):
        child.link.send(GetStats(number), NOW)
        child.channel.receive()
        assert child.says(Stats(number, {}))
    assert child.link.channel is not None


def test_a_worker_hangs_when_it_does_not_come_back_from_the_same(child: Worker) -> None:
    child.hello()
    for look in range(2 * HANG_ALARMS):  # one that sleeps, and one that is busy with another thing
        child.pulse(look % 2 * (look + 1))
        child.link.alarmed(NOW + look)
        assert child.link.phase is Phase.RUNNING
    child.pulse(77)
    phases = []
    for look in range(HANG_ALARMS):
        child.link.alarmed(NOW + 20 + look)
        phases.append(child.link.phase)
    assert phases == [Phase.RUNNING] * (HANG_ALARMS - 1) + [Phase.KILLED]
    assert child.link.fault(None).startswith("worker-stuck: ")


def test_an_alarm_goes_off_for_one_that_is_busy_and_not_for_one_that_sleeps(
    child: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vitals, "ALARM", 1)
    monkeypatch.setattr(os, "pwrite", lambda *_: None)  # this process keeps its standard error
    pulse = vitals.Pulse()
    pulse._alarm = child.alarm
    pulse.beat(5)
    pulse.beat(0)
    poll = select.poll()
    poll.register(child.link.vitals.alarm, select.POLLIN)
    assert not poll.poll(1500)
    pulse.beat(5)
    assert poll.poll(60_000)
    child.link.vitals.rewind(busy=False)
    assert not poll.poll(0)


def test_alarms_without_end_are_a_flood(child: Worker) -> None:
    child.hello()
    for _ in range(10):
        child.link.alarmed(NOW)
    assert child.link.channel is not None
    child.link.alarmed(NOW)
    assert child.link.channel is None
    assert child.link.fault(None) == "worker-channel: a flood of alarms"


def test_the_vitals_cannot_be_made_larger(child: Worker) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(child.vitals, 1 << 30)
    with pytest.raises(PermissionError):
        os.pwrite(child.vitals, b"x", vitals.SIZE)


def test_a_kill_goes_to_the_recorded_process_whatever_the_worker_says(adopted: Worker) -> None:
    # Its hello claims pid 1; nothing is recorded: nothing is killed.
    adopted.hello()
    adopted.link.kill("it did not end", NOW)
    assert adopted.link.phase is Phase.KILLED and adopted.link.ended()
    assert adopted.link.fault(None) == "worker-channel: it did not end"


def test_an_orphan_is_watched_by_its_record(child: Worker) -> None:
    child.link.born(os.getpid(), NOW)
    child.link.orphaned(NOW)
    child.hangs_up()
    assert child.link.ended()  # nothing was recorded


def test_a_link_is_ready_when_its_worker_says_something(child: Worker) -> None:
    assert child.ready.ready() == []
    child.reports.send(reports.encode(STATE))
    assert child.ready.ready() == [child.link]
    child.link.receive(NOW)
    assert child.ready.ready() == []


def test_a_link_whose_worker_has_gone_is_ready_once_more(adopted: Worker) -> None:
    """There is no record of its process, so nothing else tells its end."""
    adopted.hangs_up()
    assert adopted.ready.ready() == [adopted.link] and adopted.link.ended()
    assert adopted.ready.ready() == []
