# SPDX-License-Identifier: Apache-2.0
"""Who is given /dev/userfaultfd: workers of ports whose rows say so, and not without end."""

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.daemon.ports import PORT

from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.workers.link import WorkerLink
from ovs_vhost_plugin.daemon.workers.postcopy import Userfaultfds
from ovs_vhost_plugin.daemon.workers.readiness import Readiness
from ovs_vhost_plugin.ipc.channel import Channel
from ovs_vhost_plugin.ipc.spec import PortSettings
from ovs_vhost_plugin.ipc.vitals import Vitals
from ovs_vhost_plugin.vhost.memory import userfault

NOW = 50.0


def port(*, postcopy: bool) -> PortSpec:
    return replace(PORT, settings=PortSettings(postcopy=postcopy))


class Rig:
    """The daemon's link to a worker, and the worker's end of it."""

    def __init__(self, directory: Path) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.worker = Channel(theirs, max_fds=3)
        channel = Channel(ours, max_fds=0)
        record = directory / "pid"
        self.ready: Readiness[WorkerLink] = Readiness()
        self.link = WorkerLink(
            "vhu0", channel, None, record, Vitals(), self.ready, NOW, child=False
        )
        ((_, fds),) = self.worker.receive()  # the hello
        for fd in fds:
            os.close(fd)
        self.device = Userfaultfds()

    def ask(self, spec: PortSpec | None, now: float = NOW) -> tuple[dict[str, Any], int]:
        """What the worker is told, and how many fds come with it."""
        self.device.answer(self.link, spec, now)
        ((said, fds),) = self.worker.receive()
        for fd in fds:
            os.close(fd)
        return said, len(fds)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(userfault, "DEVICE", "/dev/null")
    before = len(list(Path("/proc/self/fd").iterdir()))
    rig = Rig(tmp_path)
    yield rig
    rig.link.close()
    rig.ready.close()
    rig.worker.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_port_whose_row_says_so(rig: Rig) -> None:
    assert rig.ask(port(postcopy=True)) == ({"op": "userfaultfd"}, 1)


@pytest.mark.parametrize("spec", [None, port(postcopy=False)])
def test_a_port_whose_row_does_not(rig: Rig, spec: PortSpec | None) -> None:
    said, fds = rig.ask(spec)
    assert "vhost-user-postcopy" in said["error"] and fds == 0


def test_one_that_asks_without_end_gets_one_a_second(rig: Rig) -> None:
    given = [rig.ask(port(postcopy=True), NOW + tenth / 10)[1] for tenth in range(30)]
    assert sum(given) == 3


def test_a_machine_without_the_device(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userfault, "DEVICE", "/nonexistent/userfaultfd")
    said, fds = rig.ask(port(postcopy=True))
    assert said["error"].startswith("/nonexistent/userfaultfd: ") and fds == 0
