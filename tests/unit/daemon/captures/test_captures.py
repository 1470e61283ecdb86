# SPDX-License-Identifier: Apache-2.0
"""Who may capture which port, and when a worker records, with a worker that notes its commands."""

import fcntl
import os
import socket
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from ovs_vhost_plugin.daemon.captures import captures as module
from ovs_vhost_plugin.daemon.captures.captures import MOST, Captures
from ovs_vhost_plugin.daemon.guests.moves import Moves
from ovs_vhost_plugin.daemon.ovsdb.database import Standing
from ovs_vhost_plugin.daemon.reconcile import Phase
from ovs_vhost_plugin.ipc.captures import (
    FROM_DAEMON,
    FROM_READER,
    AskCapture,
    CaptureEnded,
    CaptureMark,
    GivenRings,
)
from ovs_vhost_plugin.ipc.channel import MAX_BACKLOG, Channel, ChannelClosed
from ovs_vhost_plugin.ipc.commands import CaptureFrames, EndCapture
from ovs_vhost_plugin.jit.capture_ring import PART, RX, TX

TAKEN = CaptureMark("status", "starting", 1.0)
SEALED = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class NotingWorker:
    """Stands for a link to a worker."""

    phase = Phase.RUNNING
    told_to_quit = False
    state = None
    spec = SimpleNamespace(queues=2)

    def __init__(self, *, knows=True):
        self.told = []
        self._knows = knows

    def knows(self, _command):
        return self._knows

    def send(self, command, _now, fds=()):
        for fd in fds:
            assert os.fstat(fd).st_size == 2 * PART
            assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == SEALED
        self.told.append(command)
        return True


class Site:
    """A daemon's captures of the ports p0 and p1."""

    def __init__(self, rundir):
        self.workers = {"p0": NotingWorker(), "p1": NotingWorker()}
        self.loop = SimpleNamespace(
            announcing=SimpleNamespace(),
            moves=Moves(),
            database=SimpleNamespace(standing=Standing.ACTIVE),
            desired={"p0": None, "p1": None},
            ports=SimpleNamespace(link=self.workers.get),
        )
        self.captures = Captures(self.loop, rundir)
        self.closing = ExitStack()

    def reader(self, port=None, **wanted):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(os.fspath(self.captures.path))
        channel = Channel(sock)
        self.closing.callback(channel.close)
        if port is not None:
            channel.send(FROM_READER.encode(AskCapture(port, **wanted)))
        self.run()
        return channel

    def run(self):
        self.captures.run(1.0)


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    with made.closing:
        yield made
    made.captures.close(2.0)


def heard(channel):
    """What the daemon has said, and whether it has left."""
    said, left = [], False
    try:
        for message, fds in channel.receive():
            said.append(FROM_DAEMON.decode(message))
            for fd in fds:
                os.close(fd)
        channel.receive()
    except ChannelClosed:
        left = True
    return said, left


def ended(channel, name):
    """Whether the daemon has left, for that reason."""
    said, left = heard(channel)
    *_, end = said
    return left and isinstance(end, CaptureEnded) and end.why.startswith(f"{name}: ")


def test_a_worker_records_while_the_connection_lasts(site):
    reader = site.reader("p0", directions=RX, snap=96)
    assert heard(reader) == ([TAKEN, GivenRings(2)], False)
    assert site.captures.shown(4.0)["captures"] == [
        {"port": "p0", "pid": os.getpid(), "seconds": 3.0}
    ]
    site.run()
    assert site.workers["p0"].told == [CaptureFrames(RX, 96)]
    reader.close()
    site.run()
    assert site.workers["p0"].told == [CaptureFrames(RX, 96), EndCapture()]
    assert site.captures.shown(4.0)["captures"] == [] and site.workers["p1"].told == []


def test_the_next_worker_records_into_a_file_of_its_own(site):
    reader = site.reader("p0")
    site.workers["p0"], before = NotingWorker(), site.workers["p0"]
    site.run()
    assert heard(reader) == ([TAKEN, GivenRings(2), GivenRings(2)], False)
    reader.close()
    site.run()
    assert before.told == [CaptureFrames(RX | TX, 65557)]  # it has gone, and is told no more
    assert site.workers["p0"].told == [CaptureFrames(RX | TX, 65557), EndCapture()]


def test_a_port_without_a_worker_is_waited_for(site):
    site.workers["p0"], worker = None, site.workers["p0"]
    reader = site.reader("p0")
    assert heard(reader) == ([TAKEN], False)
    site.workers["p0"] = worker
    site.run()
    assert heard(reader) == ([GivenRings(2)], False)


def test_one_capture_of_a_port(site):
    first = site.reader("p0")
    assert ended(site.reader("p0"), "capture-busy")
    assert heard(site.reader("p1")) == ([TAKEN, GivenRings(2)], False)
    first.close()
    site.run()
    assert heard(site.reader("p0")) == ([TAKEN, GivenRings(2)], False)


def test_a_worker_of_a_release_before(site):
    site.workers["p0"] = NotingWorker(knows=False)
    assert ended(site.reader("p0"), "capture-process-outdated")
    assert site.workers["p0"].told == []


def test_a_port_that_is_none_and_one_that_goes(site):
    assert ended(site.reader("none"), "capture-no-port")
    reader = site.reader("p0")
    heard(reader)
    del site.loop.desired["p0"]
    site.run()
    assert ended(reader, "capture-no-port")


def test_another_daemon_serves_the_ports(site):
    reader = site.reader("p0")
    heard(reader)
    site.loop.database.standing = Standing.CONTENDED
    site.run()
    assert ended(reader, "capture-not-serving")
    assert ended(site.reader("p0"), "capture-not-serving")


def test_no_more_than_so_many(site):
    site.loop.desired.update((f"q{i}", None) for i in range(MOST))
    readers = [site.reader(f"q{i}") for i in range(MOST)]
    assert ended(site.reader("p0"), "capture-too-many")
    assert [heard(reader) for reader in readers] == [([TAKEN], False)] * MOST
    readers[0].close()
    site.run()
    assert heard(site.reader("p0")) == ([TAKEN, GivenRings(2)], False)


def test_who_is_not_root_is_left_at_once(site, monkeypatch):
    monkeypatch.setattr(module, "_ROOT", os.geteuid() + 1)
    assert heard(site.reader("p0")) == ([], True)
    assert site.workers["p0"].told == []


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"op": "quit"},
        {"op": "capture"},
        {"op": "capture", "port": 3},
        {"op": "capture", "port": "p0", "directions": 4},
        {"op": "capture", "port": "p0", "snap": 0},
        {"op": "capture", "port": "p0", "snap": 1 << 30},
    ],
)
def test_who_asks_for_nonsense_is_left(site, said):
    reader = site.reader()
    reader.send(said)
    site.run()
    assert heard(reader) == ([], True) and site.workers["p0"].told == []


def test_who_asks_twice_is_left_and_the_worker_records_no_more(site):
    reader = site.reader("p0")
    reader.send(FROM_READER.encode(AskCapture("p1")))
    site.run()
    assert heard(reader) == ([TAKEN, GivenRings(2)], True)
    assert [type(command) for command in site.workers["p0"].told] == [CaptureFrames, EndCapture]


def test_who_does_not_read_is_left(site):
    site.reader("p0")
    (reader,) = site.captures._readers
    for _ in range(100 * MAX_BACKLOG):
        reader.tell([CaptureMark("status", "x" * 400, 1.0)])
    site.run()
    assert site.captures.shown(1.0)["captures"] == []
    assert site.workers["p0"].told[-1] == EndCapture()
