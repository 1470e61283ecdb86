# SPDX-License-Identifier: Apache-2.0
"""What is left on disk and forked: records, sockets, the fork server. No root is needed."""

import json
import os
import select
import signal
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.worker.tap_io import CHOOSES_WRITEV

from ovs_vhost_plugin.common import pidfile
from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.daemon.sockets.listener import Owner, listen_control
from ovs_vhost_plugin.daemon.workers.forkserver import ForkServerLink
from ovs_vhost_plugin.ipc import births
from ovs_vhost_plugin.ipc.births import Born, Broken, Dispose, Exited, ForkWorker, News, Ready
from ovs_vhost_plugin.ipc.channel import ChannelClosed, connect
from ovs_vhost_plugin.ipc.spec import PortSettings, WorkerSpec
from ovs_vhost_plugin.ipc.vitals import Vitals


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateDir:
    # Relative, as pytest's directories are too long for a socket's path.
    monkeypatch.chdir(tmp_path)
    return StateDir.create(Path("run"))


# -- the state directory ----------------------------------------------------------------------


def test_the_state_directory_is_private(state: StateDir) -> None:
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700
    assert StateDir.create(Path("run")) == state


def test_a_state_directory_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "ovs-vhost").symlink_to(tmp_path / "elsewhere")
    with pytest.raises((ValueError, FileExistsError)):
        StateDir.create(tmp_path)


def test_a_run_directory_too_deep_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too long"):
        StateDir.create(tmp_path / ("x" * 100))


def test_ports_with_dots_in_their_names_are_found_again(state: StateDir) -> None:
    state.tap("vhu.0").write_text("1 2\n")
    state.control("vhu.1").touch()
    assert state.ports() == {"vhu.0", "vhu.1"}
    state.forget("vhu.1")
    assert state.ports() == {"vhu.0"}


# -- which process a worker is ----------------------------------------------------------------


def test_a_recorded_process_is_found_and_killed(state: StateDir) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        pidfile.write(state.pid("a"), process.pid)
        pidfd = pidfile.open_process(state.pid("a"))
        assert pidfd is not None
        pidfile.kill(pidfd)
        assert process.wait(10) == -signal.SIGKILL
        pidfile.kill(pidfd)  # of what has ended, nothing
        os.close(pidfd)
    assert pidfile.open_process(state.pid("a")) is None


@pytest.mark.parametrize("text", ["", "1", "x y", "{pid} 1", "1 2 3", "99999999 5"])
def test_another_process_under_the_same_pid_is_not_it(state: StateDir, text: str) -> None:
    state.pid("a").write_text(text.format(pid=os.getpid()))
    assert pidfile.open_process(state.pid("a")) is None


def test_nothing_recorded_is_no_process(state: StateDir) -> None:
    assert pidfile.open_process(state.pid("a")) is None


# -- the connection to a worker ---------------------------------------------------------------


def test_nothing_ever_comes_back_over_the_socket(state: StateDir) -> None:
    """Neither bytes nor an fd, whose closing could take its time: not from the first moment on."""
    with listen_control(state.control("a")) as listener:
        daemon = connect(os.fspath(state.control("a")))
        worker, _ = listener.accept()
        with worker, pytest.raises(BrokenPipeError):
            socket.send_fds(worker, [b"x"], [0])
        daemon.close()


@pytest.mark.parametrize(
    ("text", "owner"), [("0", Owner(0, -1)), ("7:9", Owner(7, 9)), ("root:root", Owner(0, 0))]
)
def test_owners(text: str, owner: Owner) -> None:
    assert Owner.parse(text) == owner


@pytest.mark.parametrize("text", ["", ":", "no-such-user", "0:no-such-group"])
def test_unknown_owners_are_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"no (user|group)"):
        Owner.parse(text)


# -- the fork server ------------------------------------------------------------------------------


class Daemon:
    def __init__(self, state: StateDir, module: str) -> None:
        self.program = ForkServerLink(module, state, quiet=True)
        self.channel = self.program.channel
        self._heard: list[tuple[dict[str, Any], list[int]]] = []

    def hear(self) -> News:
        """What it says next; it may have said more by now."""
        while not self._heard:
            ready, _, _ = select.select([self.channel], [], [], 60)
            assert ready, "the fork server says nothing"
            self._heard += self.channel.receive()
        said, fds = self._heard.pop(0)
        assert not fds
        return births.decode_news(said)

    def ask(self, spec: WorkerSpec, *fds: int) -> None:
        self.channel.send(births.encode_request(ForkWorker(spec)), fds)

    def end(self) -> None:
        self.program.leave()
        assert self.program.wait() is not None


SPEC = WorkerSpec("vhu0", "client", "/x", 1, PortSettings(hold=True))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A worker that writes what it got into its first queue, and fails if its port says so."""
    (tmp_path / "born_worker.py").write_text(
        "import json, os\n"
        "def warm(): pass\n"
        f"{CHOOSES_WRITEV}"
        "def run(spec, inheritance):\n"
        "    tap, journal = inheritance.tap, inheritance.journal\n"
        "    told = {'name': spec.name, 'listener': inheritance.listener,\n"
        "            'environment': dict(os.environ),\n"
        "            'journal': os.readlink(f'/proc/self/fd/{journal}')}\n"
        "    os.write(tap, json.dumps(told).encode())\n"
        "    if spec.name == 'fails': raise RuntimeError('as told')\n"
        "    return 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "born_worker"


@pytest.mark.parametrize(("name", "status"), [("vhu0", 3), ("fails", 70)])
def test_a_worker_is_born_and_its_end_told(
    state: StateDir, module: str, name: str, status: int
) -> None:
    family = Daemon(state, module)
    assert isinstance(family.hear(), Ready)
    reader, writer = os.pipe()
    vitals = Vitals()
    with listen_control(Path("control")) as control:
        spec = WorkerSpec(name, "client", "/x", 1, PortSettings(hold=True))
        journal = os.memfd_create("journal")
        family.ask(spec, vitals.fd, control.fileno(), journal, writer)
    for fd in (journal, writer):
        os.close(fd)

    born = family.hear()
    told = json.loads(os.read(reader, 1000))
    # The end of file: neither fork server nor worker keeps what it was given.
    assert os.read(reader, 1) == b""
    os.close(reader)

    assert isinstance(born, Born) and born.name == name
    pid = born.pid
    assert told.pop("journal").startswith("/memfd:journal")
    assert told == {"name": name, "listener": None, "environment": {}}
    assert family.hear() == Exited(pid, status)
    assert state.pid(name).read_text().split()[0] == str(pid)
    assert ("RuntimeError: as told" in vitals.last_words) is (name == "fails")
    vitals.close()
    family.end()


def test_what_is_to_be_disposed_of_is_closed_by_a_child(state: StateDir, module: str) -> None:
    """A child of its own, as the fork server is not to wait for it either."""
    family = Daemon(state, module)
    assert isinstance(family.hear(), Ready)
    ours, theirs = socket.socketpair()
    with ours:
        family.channel.send(births.encode_request(Dispose()), [theirs.fileno()])
        theirs.close()
        assert ours.recv(1) == b""
    assert isinstance(family.hear(), Exited)
    family.end()


def test_a_fork_server_that_has_compiled_starts_again_once(
    state: StateDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the compiler left behind is in no worker's memory; it may compile again each time."""
    warmed = tmp_path / "warmed"
    (tmp_path / "compiling_worker.py").write_text(
        "import os\n"
        f"def warm(): open({str(warmed)!r}, 'a').write(f'{{os.getpid()}}\\n'); return True\n"
        f"{CHOOSES_WRITEV}"
        "def run(*_): return 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    family = Daemon(state, "compiling_worker")
    assert isinstance(family.hear(), Ready)
    assert warmed.read_text().split() == [str(family.program.pid)] * 2
    family.end()


def test_a_fork_server_that_cannot_warm_says_why(state: StateDir) -> None:
    family = Daemon(state, "no_such_module")
    broken = family.hear()
    assert isinstance(broken, Broken) and "no_such_module" in broken.error
    with pytest.raises(ChannelClosed):
        while select.select([family.channel], [], [], 10)[0]:
            family.channel.receive()
    family.end()


def test_the_fork_server_ends_with_the_daemon(state: StateDir, module: str) -> None:
    family = Daemon(state, module)
    family.hear()
    family.channel.close()
    assert family.program.wait() == 0


def test_the_fork_server_has_nothing_of_the_daemons(state: StateDir, module: str) -> None:
    secret, other = socket.socketpair()
    family = Daemon(state, module)
    family.hear()
    fds = list(Path(f"/proc/{family.program.pid}/fd").iterdir())
    assert len(fds) == 6  # stdio, the channel, its own PID namespace, an epoll set
    secret.close()
    assert other.recv(1) == b""
    other.close()
    family.end()
