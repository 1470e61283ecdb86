# SPDX-License-Identifier: Apache-2.0
"""A local user and the daemon's files: its control socket, its log, its cache; workers' users."""

import contextlib
import os
import pickle
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.checkout import TOP

from ovs_vhost_plugin.jit import cache
from ovs_vhost_plugin.lab.hosts.host import Host
from ovs_vhost_plugin.lab.platform import packages

pytestmark = pytest.mark.system

NOBODY = 65534
_ENVIRONMENT = os.environ | {"PYTHONPATH": str(TOP)}


@pytest.fixture
def open_directory(require):
    """A directory that everybody may walk through, as /run is."""
    lacking = packages.missing(packages.SWITCH)
    require(lacking is None, lacking or "")
    with TemporaryDirectory(prefix="ovs-vhost-") as top:
        Path(top).chmod(0o755)
        yield Path(top)


def as_nobody(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a Python script as a user who has nothing to do with us."""
    return subprocess.run(
        ["python3", "-c", script, *map(str, arguments)],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        executable=shutil.which("python3", path="/usr/bin:/bin") or sys.executable,
    )


@contextlib.contextmanager
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


_CONNECT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(60)
    sock.connect(sys.argv[1])
    sock.sendall(b'{"id":1,"method":"version","params":[]}')
    print(sock.recv(1000))
"""
_READ = "import sys; print(open(sys.argv[1]).read(1))"


def test_nobody_gets_no_answer_and_reads_no_log_whatever_the_umask_was(open_directory):
    with Host("files", open_directory / "h", daemon=False) as host:
        with no_umask():
            host.launch_daemon()
        host.wait_daemon()
        host.directory.chmod(0o755)
        (control,) = host.directory.glob("ovs-vhost.*.ctl")
        told = as_nobody(_CONNECT, control)
        assert told.stdout == "" and "PermissionError" in told.stderr
        # As Open vSwitch makes its own
        assert stat.S_IMODE(control.stat().st_mode) == 0o770
        for path in (host.log, host.directory / "ovs-vhost.pid"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o640
            assert "PermissionError" in as_nobody(_READ, path).stderr
        made = [path for path in host.directory.rglob("*") if "ovs-vhost" in path.name]
        assert not [path for path in made if path.stat().st_mode & 0o007 and path.suffix != ".out"]
        # The owner is answered.
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(os.fspath(control))


class _Planted:
    """Whoever unpickles it makes a file."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self._marker}",)


_LOAD = "from ovs_vhost_plugin.jit.ring import dirty"  # few kernels, as compiling all takes long


def test_a_planted_cache_is_not_unpickled(open_directory):
    """Its owner writes into every file from which numba would load a kernel, wherever it looks."""
    planted, marker = open_directory / "nobody", open_directory / "ran"
    subprocess.run([sys.executable, "-c", _LOAD], check=True, env=_ENVIRONMENT)
    kept = cache.find().directory
    assert kept is not None
    (named,) = kept.glob("kernels-*")
    kernels = [path.relative_to(named) for path in named.rglob("dirty.*.nbi")]
    assert kernels
    homes = (".", named.name, f".cache/{named.name}", ".cache/numba", f"ovs-vhost/{named.name}")
    for place in homes:
        for kernel in kernels:
            path = planted / place / kernel
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pickle.dumps(_Planted(marker)))
    for path in (planted, *planted.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    variables = (cache.VARIABLE, "NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HOME")
    evil = dict.fromkeys(variables, str(planted))
    subprocess.run([sys.executable, "-c", _LOAD], check=True, env=_ENVIRONMENT | evil)
    assert not marker.exists()
    with Host("files", open_directory / "h", daemon=False) as host:
        host.switch.env |= evil
        host.launch_daemon()
        host.wait_daemon()
        log = host.log.read_text()
        assert f"cache-not-trusted: {planted} belongs to user {NOBODY}" in log
        assert cache.VARIABLE in log  # what to do about it
    assert not marker.exists()


_SIGNAL = """
import os, sys
uid, pid = int(sys.argv[1]), int(sys.argv[2])
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
os.kill(pid, 0)
"""


def test_workers_of_daemons_in_two_network_namespaces_are_different_users(open_directory):
    """Their ports have the same ifindex, and their daemons know nothing of each other."""
    with ExitStack() as stack:
        hosts = [
            stack.enter_context(Host(label, open_directory / label)) for label in ("one", "two")
        ]
        for host in hosts:
            host.add_server_port("vhu0")
            host.add_server_port("vhu1")
        workers = [_worker(host, name) for host in hosts for name in ("vhu0", "vhu1")]
        users = [_user(pid) for pid in workers]
        assert len({uid for uid, _ in users}) == len({gid for _, gid in users}) == 4
        argv = [sys.executable, "-c", _SIGNAL, str(users[0][0])]
        for pid in workers[1:]:
            done = subprocess.run([*argv, str(pid)], capture_output=True, text=True, check=False)
            assert "PermissionError" in done.stderr
        # A daemon started anew gives none of them again, and the adopted worker keeps its own.
        hosts[0].stop_daemon(kill=True)
        hosts[0].start_daemon()
        hosts[0].add_server_port("vhu2")
        workers.append(_worker(hosts[0], "vhu2"))
        again = [_user(pid) for pid in workers]
        assert again[:4] == users and len(set(again)) == 5


def _worker(host: Host, name: str) -> int:
    host.wait_status(name, "listening")
    return host.worker_pid(name)


def _user(pid: int) -> tuple[int, int]:
    """Real user and group, once it has taken them."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = {line.split()[0]: int(line.split()[1]) for line in lines if line[1:4] == "id:"}
    return fields["Uid:"], fields["Gid:"]
