# SPDX-License-Identifier: Apache-2.0
"""What the daemon is told of SEND_RARP, and when."""

import contextlib
import os
import selectors
import socket

import pytest

from ovs_vhost_plugin.ipc.channel import Channel, WorkerSpec
from ovs_vhost_plugin.ipc.reportpipe import ReportReader
from ovs_vhost_plugin.ipc.vitals import Vitals
from ovs_vhost_plugin.worker.daemonlink import DaemonLink

BURST = 20  # SEND_RARPs that are passed on at once


class Daemon:
    """The daemon's end, past the greeting."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.connect(path)
        self.channel = Channel(self.sock)
        self.reports = ReportReader()
        self.vitals = Vitals()
        self.fds = [self.reports.writer, self.vitals.fd, self.vitals.alarm]
        self.channel.send({"op": "hello", "version": "1"}, self.fds)
        self.reports.give_away()

    def receive(self):
        return [report for report, _ in self.reports.receive(1 << 20)[0]]

    def close(self):
        self.channel.close()
        self.reports.close()
        self.vitals.close()


@pytest.fixture
def link(tmp_path):
    """A worker's link, and the daemon's end of it past the greeting."""
    spec = WorkerSpec("vhu0", "client", "/vm.sock", 1, None, finish_offloads=False, hold=True)
    path = str(tmp_path / "control")
    with (
        selectors.DefaultSelector() as selector,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
    ):
        listener.bind(path)
        listener.listen()
        made = DaemonLink(
            listener,
            selector,
            lambda: spec,
            dict,
            list,
            lambda: None,
            lambda command, fds: None,
            close,
        )
        with contextlib.closing(Daemon(path)) as daemon:
            while not made.connected:
                for key, _ in selector.select(5.0):
                    key.data(0.0)
            assert daemon.receive()[0]["event"] == "hello"
            yield made, daemon


def close(*fds):
    """This process keeps its standard error."""
    for fd in fds:
        os.close(fd)


def macs(daemon):
    return [event["mac"] for event in daemon.receive() if event["event"] == "rarp"]


def test_a_rarp_does_not_wait_for_what_else_the_front_end_says(link):
    worker, daemon = link
    worker.rarp(b"\x52\x54\0\0\0\1", at=100.0)
    assert macs(daemon) == ["52:54:00:00:00:01"]


def test_of_a_flood_the_latest_is_told_in_its_time(link):
    worker, daemon = link
    for number in range(BURST + 5):
        worker.rarp(bytes([0x52, 0x54, 0, 0, 0, number]), at=100.0)
    assert len(macs(daemon)) == BURST
    due = worker.due(100.0)
    assert due is not None
    worker.run(100.001 + due)
    assert macs(daemon) == [f"52:54:00:00:00:{BURST + 4:02x}"]
    worker.run(200.0)
    assert macs(daemon) == []


def test_a_rarp_that_nobody_hears_is_said_to_be_so(link):
    """The daemon has just gone, and the worker has not seen it yet: its own tap has to do."""
    worker, daemon = link
    assert worker.rarp(b"\x52\x54\0\0\0\1", at=100.0)
    with open(os.devnull) as nothing:  # noqa: PTH123 - an fd, in the place of the pipe's end
        os.dup2(nothing.fileno(), daemon.reports.fileno())
    assert worker.connected
    assert not worker.rarp(b"\x52\x54\0\0\0\1", at=101.0)
