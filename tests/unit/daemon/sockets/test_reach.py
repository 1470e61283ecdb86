# SPDX-License-Identifier: Apache-2.0
"""The way to a socket, with everything real but the users: who is connected, who is not, and what
becomes of a connection that is refused."""

import contextlib
import fcntl
import os
import pwd
import socket
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.daemon.sockets.listener import FrontEndListeners
from ovs_vhost_plugin.daemon.sockets.mounts import Mounts
from ovs_vhost_plugin.daemon.sockets.reach import Nobody, Reach, _lock_holders
from ovs_vhost_plugin.daemon.sockets.sockpolicy import SocketError

ME = str(os.geteuid())


class Site:
    """A run directory, a place for a socket, and what was disposed of."""

    def __init__(self, top: Path) -> None:
        self.rundir = top / "run"
        self.rundir.mkdir()
        self.top = top
        self.state = StateDir.create(self.rundir)
        self.pids: dict[int, str] = {}
        self.disposed: list[socket.socket] = []
        self.mounts = Mounts()
        self.reach = Reach(
            self.rundir,
            self.state,
            f"unix:{top}/database",
            self.pids_now,
            self.mounts,
            lambda fd: self.disposed.append(socket.socket(fileno=fd)),
        )

    def pids_now(self) -> dict[int, str]:
        return self.pids

    def listen(self, path: Path) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        held = os.open(path.parent, os.O_PATH)
        listener.bind(f"/proc/self/fd/{held}/{path.name}")
        os.close(held)
        listener.listen(4)
        return listener

    def error(self, path: Path, owner: str = "") -> str:
        with pytest.raises(SocketError) as caught:
            self.reach.connect(str(path), owner)
        return str(caught.value.name)


@pytest.fixture
def site() -> Iterator[Site]:
    # Not tmp_path: the state directory is for sockets, whose paths are short.
    with TemporaryDirectory(prefix="ovs-vhost-") as top:
        made = Site(Path(top))
        yield made
        for sock in made.disposed:
            sock.close()
        made.mounts.close()


def test_nobody_is_no_error(site: Site) -> None:
    path = site.top / "vm.sock"
    assert site.reach.connect(str(path), "") is Nobody.ABSENT
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        assert site.reach.connect(str(path), "") is Nobody.NOT_LISTENING
        bound.listen(0)
        first = site.reach.connect(str(path), "")
        assert isinstance(first, socket.socket)
        assert site.reach.connect(str(path), "") is Nobody.BUSY
        first.close()
    assert site.reach.connect(str(path), "") is Nobody.NOT_LISTENING
    assert not site.disposed


@pytest.mark.parametrize("owner", ["", ME, pwd.getpwuid(os.geteuid()).pw_name])
def test_who_may_be_is_connected(site: Site, owner: str) -> None:
    path = site.top / "vm.sock"
    with site.listen(path) as listener:
        sock = site.reach.connect(str(path), owner)
        assert isinstance(sock, socket.socket) and not site.disposed
        with sock, listener.accept()[0] as accepted:
            accepted.send(b"x")
            assert sock.recv(1) == b"x"


def test_what_is_found_at_once_to_be_wrong_is_not_even_tried(site: Site) -> None:
    with (
        site.listen(site.top / "database"),
        site.listen(site.state.control("vhu0")),
        site.listen(site.rundir / "br0.mgmt"),
        site.listen(site.top / "a") as listener,
    ):
        (site.top / "file").touch()
        assert site.error(site.top / "file") == "socket-is-none"
        assert site.error(site.top / "database") == "socket-foreign"
        assert site.error(site.state.control("vhu0")) == "socket-foreign"
        assert site.error(site.rundir / "br0.mgmt") == "socket-foreign"
        (site.top / "b").hardlink_to(site.top / "a")
        assert site.error(site.top / "a") == "socket-hard-linked"
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert site.error(site.top / "file" / "x") == "socket-unreachable"
    assert not site.disposed


def test_ports_in_server_mode_are_known_by_their_inode(site: Site) -> None:
    if os.geteuid() != 0:
        pytest.skip("as the daemon, it takes CAP_NET_ADMIN")
    listeners = FrontEndListeners(site.state, site.mounts)
    path = site.top / "vhu0"
    with listeners.listen("vhu0", path, None, 0o660):
        path.rename(site.top / "moved")
        assert site.error(site.top / "moved") == "socket-foreign"
        assert not site.disposed
    listeners.unlink("vhu0")


def test_a_refused_connection_is_not_closed_here(site: Site) -> None:
    """What its peer has put into its queue meanwhile would be closed with it, and may linger."""
    path = site.top / "vm.sock"
    with site.listen(path) as listener:
        sent: list[socket.socket] = []

        def quick() -> dict[int, str]:
            accepted, _ = listener.accept()
            sent.append(accepted)
            with contextlib.suppress(PermissionError):  # since Linux 6.16
                socket.send_fds(accepted, [b"x"], [listener.fileno()])
            return {os.getpid(): "this daemon"}

        site.reach._pids = quick
        assert site.error(path) == "socket-foreign"
        assert len(site.disposed) == 1 and site.disposed[0].fileno() >= 0
        sent[0].close()


def test_a_user_that_this_machine_lacks_is_named(site: Site) -> None:
    path = site.top / "vm.sock"
    with site.listen(path):
        assert site.error(path, "no such user") == "socket-owner-unknown"
        assert site.error(path, "4294967294") == "socket-not-trusted"
        assert len(site.disposed) == 2


def test_programs_are_known_by_the_lock_of_their_pidfile(site: Site) -> None:
    pidfile = site.rundir / "ovsdb-server.pid"
    pidfile.write_text("1\n")
    path = site.top / "vm.sock"
    with site.listen(path), pidfile.open("r+") as file:
        sock = site.reach.connect(str(path), "")
        assert sock is not None, "an old pidfile names nobody"
        sock.close()
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert site.error(path) == "socket-foreign"
        # To look does not free the lock, as it would if our own pidfile were opened and closed.
        assert os.getpid() in dict(_lock_holders(Path("/proc/locks").read_text())).values()


def test_locks_are_read_as_the_kernel_shows_them() -> None:
    text = """1: POSIX  ADVISORY  WRITE 1234 00:1a:567 0 EOF
1: -> POSIX  ADVISORY  WRITE 99 00:1a:567 0 EOF
2: FLOCK  ADVISORY  WRITE 77 fe:00:9 0 EOF
3: OFDLCK ADVISORY  READ -1 fe:00:10 0 EOF
"""
    assert dict(_lock_holders(text)) == {567: 1234}
