# SPDX-License-Identifier: Apache-2.0
"""All workers, with a fork server of its own and a worker that ends at once."""

import errno
import os
import socket
from pathlib import Path

import pytest
from support.worker.tap_io import CHOOSES_WRITEV

from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.daemon.events import Ended, Event
from ovs_vhost_plugin.daemon.poller import LoopPoller
from ovs_vhost_plugin.daemon.workers.workers import Workers
from ovs_vhost_plugin.ipc.spec import WorkerSpec

NOW = 100.0
SPEC = WorkerSpec("vhu0", "client", "/x", 1)


def next_events(workers: Workers) -> list[Event]:
    poller = LoopPoller()
    assert workers.get_timer() is None, "nothing here is tried again"
    workers.wait(poller)
    poller.block()
    return workers.run(NOW)


def test_nothing_is_left_of_a_worker_that_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ending_worker.py").write_text(
        f"def warm(): pass\n{CHOOSES_WRITEV}def run(*_): return 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    state = StateDir.create(Path("run"))
    workers = Workers("ending_worker", state, quiet=True)
    journal, tap = os.memfd_create("journal"), os.memfd_create("tap")
    try:
        workers.start_fork_server(NOW)
        while not workers.spawn_slots:
            next_events(workers)
        workers.spawn(SPEC, None, journal, tap, NOW)
        assert state.ports() == {"vhu0"}
        ended: list[Event] = []
        while not ended:
            ended = [event for event in next_events(workers) if isinstance(event, Ended)]
        assert [event.name for event in ended] == ["vhu0"] and not workers.links
        assert state.ports() == set()
    finally:
        os.close(journal)
        os.close(tap)
        workers.close()


def test_a_worker_that_there_is_no_fd_for_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = StateDir.create(Path("run"))
    workers = Workers("unused", state, quiet=True)
    buried: list[str] = []
    monkeypatch.setattr(workers, "_bury", buried.append)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(state.control("vhu0")))
    listener.listen()

    def no_fd(*_: object) -> None:
        raise OSError(errno.EMFILE, "x")

    monkeypatch.setattr(socket, "socket", no_fd)
    with pytest.raises(OSError, match="x"):
        workers.adopt(NOW)
    assert not buried and state.control("vhu0").exists()
    listener.close()
    workers.close()
