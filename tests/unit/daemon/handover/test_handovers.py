# SPDX-License-Identifier: Apache-2.0
"""A handover as the daemon sees it: whoever has the port in the end, it has one worker."""

import os
import select
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ovs_vhost_plugin.common import pidfile
from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.daemon.events import HandoverEnded
from ovs_vhost_plugin.daemon.handover.handovers import TIMEOUT, Handovers
from ovs_vhost_plugin.daemon.workers.cgroups import Cgroups
from ovs_vhost_plugin.daemon.workers.readiness import Readiness
from ovs_vhost_plugin.ipc import births
from ovs_vhost_plugin.ipc.births import ForkWorker
from ovs_vhost_plugin.ipc.channel import Channel, ChannelClosed
from ovs_vhost_plugin.ipc.commands import HandOver
from ovs_vhost_plugin.ipc.reports import HandedOver, PortState
from ovs_vhost_plugin.ipc.spec import WorkerSpec
from ovs_vhost_plugin.ipc.vitals import Vitals

NOW = 100.0
SPEC = WorkerSpec("vhu0", "client", "/x", 1, uid=7)


class Link:
    """A worker's link that notes what is done with it."""

    def __init__(self, pid: int | None = None) -> None:
        self.name, self.spec, self.vitals = "vhu0", SPEC, Vitals()
        self.state: PortState | None = PortState("running")
        self.stations = ()
        self.pid = pid
        self.sent: list[Any] = []
        self.done: list[str] = []
        self.over = False
        self.child = True

    def send(self, command: Any, _now: float, fds: tuple[int, ...]) -> bool:
        self.sent.append((command, [os.dup(fd) for fd in fds]))
        return True

    def kill(self, _reason: str, _now: float) -> None:
        self.done.append("killed")

    def abandon(self) -> None:
        self.done.append("abandoned")

    def replace(self, before: "Link") -> None:
        self.done.append("replaces")
        self.state = before.state

    def born(self, pid: int, _now: float) -> None:
        self.pid = pid

    def ended(self) -> bool:
        return self.over

    def close(self) -> None:
        self.done.append("closed")


class Site:
    """A port with a worker, a fork server's other end, and a process that is the successor."""

    def __init__(self, directory: Path) -> None:
        self.state = StateDir.create(directory)
        self.before, self.after = Link(5), Link()
        self.links: dict[str, Any] = {"vhu0": self.before}
        self.alarms: Readiness[Any] = Readiness()
        self.alarms.watch(self.before.vitals.alarm, select.POLLIN, self.before)
        self.reconnects = True
        self.handovers = Handovers(
            self.links, self._reconnect, self.alarms, Cgroups(None), self.state
        )
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.fork_server, self.forking = Channel(ours), Channel(theirs, max_fds=8)
        self.process = subprocess.Popen(["sleep", "60"])
        pidfile.write(self.state.pid("vhu0"), os.getpid())
        self.fds: list[int] = []

    def _reconnect(self, spec: WorkerSpec, _now: float, child: bool) -> Any:
        if not self.reconnects:
            raise ConnectionRefusedError(111, "refused")
        assert spec == SPEC
        self.after.child = child
        return self.after

    def begin(self) -> int:
        """Begin; return the number of the request."""
        self.handovers.begin(self.fork_server, SPEC, NOW)
        ((command, fds),) = self.before.sent
        self.fds += fds
        assert isinstance(command, HandOver)
        ((said, given),) = self.forking.receive()
        self.fds += given
        assert births.decode_request(said) == ForkWorker(SPEC, successor=True)
        assert len(given) == 2, "vitals, and the socket to the worker before"
        # These two are of one pair.
        os.write(fds[0], b"x")
        assert os.read(given[1], 9) == b"x"
        pidfile.write(self.state.successor("vhu0"), self.process.pid)
        self.handovers.born("vhu0", self.process.pid, NOW)
        assert "vhu0" in self.handovers and not self.handovers.unborn
        assert self.handovers.pids() == {self.process.pid: "the next worker of vhu0"}
        return command.id

    def answer(self, number: int, outcome: str, why: str = "") -> list[HandoverEnded]:
        return self.handovers.answered(self.before, HandedOver(number, outcome, why), NOW + 1)  # type: ignore[arg-type]

    @property
    def successor_lives(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.handovers.close()
        for link in (self.before, self.after):
            link.vitals.close()
        for fd in self.fds:
            os.close(fd)
        self.fork_server.close()
        self.forking.close()
        self.alarms.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def test_the_successor_takes_the_place_of_a_worker_that_has_given_all_away(site: Site) -> None:
    number = site.begin()
    assert site.answer(number, "done") == [HandoverEnded("vhu0", "done", "", 1.0)]
    assert site.links == {"vhu0": site.after}
    assert site.after.pid == site.process.pid and site.after.state == site.before.state
    assert site.before.done == ["killed", "abandoned"], "it may be its guest's, and stay"
    record = pidfile.open_process(site.state.pid("vhu0"))
    assert record is not None and site.successor_lives
    assert site.state.pid("vhu0").read_text().split()[0] == str(site.process.pid)
    assert not site.state.successor("vhu0").exists()
    os.close(record)
    assert not len(site.handovers)
    site.handovers.run(NOW + 2)
    assert site.before.done[-1] == "abandoned"
    site.before.over = True
    site.handovers.run(NOW + 2)
    assert site.before.done[-1] == "closed"


def test_a_birth_that_is_told_late_is_the_successor_s(site: Site) -> None:
    number = site.begin()
    site.handovers._under_way["vhu0"].pid = None
    site.answer(number, "done")
    assert site.after.pid is None
    site.handovers.born("vhu0", 77, NOW)
    assert site.after.pid == 77
    site.handovers.born("vhu0", 78, NOW)
    assert site.after.pid == 77, "that one is somebody else"


def test_an_end_that_was_told_before_is_not_waited_for(site: Site) -> None:
    number = site.begin()
    site.handovers.exited(site.process.pid)
    site.answer(number, "done")
    assert not site.after.child, "its process tells the end"


@pytest.mark.parametrize("outcome", ["busy", "failed"])
def test_otherwise_the_port_keeps_its_worker_and_the_successor_ends(
    site: Site, outcome: str
) -> None:
    assert site.answer(site.begin(), outcome, "why") == [HandoverEnded("vhu0", outcome, "why", 1.0)]
    assert site.links == {"vhu0": site.before} and site.before.done == []
    assert site.process.wait(10) < 0
    assert not site.state.successor("vhu0").exists() and not len(site.handovers)


def test_a_successor_s_last_words_are_told(site: Site) -> None:
    number = site.begin()
    os.pwrite(site.fds[1], b"Traceback\nValueError: x\x1b\n", 4096)
    (ended,) = site.answer(number, "failed", "it has gone")
    assert ended.why == "it has gone; it said: ValueError: x?"


def test_an_answer_to_another_question_does_not_count(site: Site) -> None:
    number = site.begin()
    assert site.answer(number + 1, "done") == []
    assert site.links == {"vhu0": site.before} and "vhu0" in site.handovers
    assert site.answer(number, "done") != []
    assert site.answer(number, "done") == []


def test_who_does_not_answer_ends_and_its_successor_too(site: Site) -> None:
    """Nobody knows which of the two has the port."""
    site.begin()
    assert site.handovers.get_timer() == NOW + TIMEOUT
    assert site.handovers.run(NOW + TIMEOUT - 0.1) == [] and site.successor_lives
    (ended,) = site.handovers.run(NOW + TIMEOUT)
    assert (ended.outcome, ended.why) == ("failed", "its worker does not answer")
    assert site.before.done == ["killed"] and site.process.wait(10) < 0
    assert site.handovers.get_timer() is None


def test_a_worker_that_ends_meanwhile_takes_its_successor_along(site: Site) -> None:
    site.begin()
    site.handovers.drop("vhu0")
    assert site.process.wait(10) < 0 and not len(site.handovers)
    site.handovers.drop("vhu0")


def test_a_successor_that_cannot_be_reached_is_a_fault_of_its_worker(site: Site) -> None:
    number = site.begin()
    site.reconnects = False
    (ended,) = site.answer(number, "done")
    assert (ended.outcome, ended.why) == ("failed", "refused")
    assert site.before.done == ["killed"], "its end ends the successor too"
    site.handovers.drop("vhu0")
    assert site.process.wait(10) < 0


def test_without_a_fork_server_the_worker_sees_the_end(site: Site) -> None:
    site.forking.close()
    with pytest.raises(ChannelClosed):
        site.handovers.begin(site.fork_server, SPEC, NOW)
    ((_, fds),) = site.before.sent
    site.fds += fds
    site.fork_server.close()  # as its owner does, with what waited to be sent
    os.set_blocking(fds[0], False)
    assert os.read(fds[0], 1) == b""


def test_the_record_of_a_successor_counts_when_its_predecessor_has_ended(site: Site) -> None:
    """A daemon that died in a handover has left both."""
    mine, other = site.state.pid("vhu0"), site.state.successor("vhu0")
    pidfile.write(other, site.process.pid)
    pidfile.succeed(mine, other)
    assert mine.read_text().split()[0] == str(os.getpid()), "it lives"
    with subprocess.Popen(["true"]) as ended:
        pidfile.write(mine, ended.pid)
    pidfile.succeed(mine, other)
    assert mine.read_text().split()[0] == str(site.process.pid) and not other.exists()
    pidfile.succeed(mine, other)
    assert mine.exists()
