# SPDX-License-Identifier: Apache-2.0
"""The sockets of ports in server mode: whose they are, what makes way, what is unlinked."""

import errno
import os
import socket
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest

from ovs_vhost_plugin.common import process
from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.daemon.sockets import listener
from ovs_vhost_plugin.daemon.sockets.listener import FrontEndListeners, ListenError, Owner
from ovs_vhost_plugin.daemon.sockets.mounts import Mounts

NOBODY = 65534


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateDir:
    if os.geteuid() != 0:
        pytest.skip("CAP_NET_ADMIN, as the taps need it, tells which file a socket is")
    monkeypatch.chdir(tmp_path)
    return StateDir.create(Path("run"))


@pytest.fixture
def listeners(state: StateDir) -> FrontEndListeners:
    return FrontEndListeners(state, Mounts())


def connect(path: Path) -> None:
    """By its name, whose directory may be deep."""
    held = os.open(path.parent, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as front_end:
            front_end.connect(f"/proc/self/fd/{held}/{path.name}")
    finally:
        os.close(held)


def test_a_socket_is_made_for_owner_and_mode(
    state: StateDir, listeners: FrontEndListeners, tmp_path: Path
) -> None:
    path = tmp_path / ("x" * 120) / "made/vhu0"
    with listeners.listen("vhu0", path, Owner(NOBODY, 7), 0o620):
        found = path.stat()
        assert stat.S_IMODE(found.st_mode) == 0o620
        assert (found.st_uid, found.st_gid) == (NOBODY, 7)
        assert listener.made(state) == {(found.st_dev, found.st_ino)}
        connect(path)
    listeners.unlink("vhu0")
    assert not path.exists() and state.ports() == set() and listener.made(state) == set()
    listeners.unlink("vhu0")


def test_a_dead_socket_makes_way_and_a_live_one_does_not(
    listeners: FrontEndListeners, tmp_path: Path
) -> None:
    path = tmp_path / "vhu0"
    with (
        listeners.listen("vhu0", path, None, 0o600),
        pytest.raises(ListenError, match="socket-in-use"),
    ):
        listeners.listen("vhu1", path, None, 0o600)
    listeners.listen("vhu0", path, None, 0o600).close()


def test_a_socket_whose_owner_cannot_be_set_is_open_to_nobody(
    listeners: FrontEndListeners, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between bind(2) and chown(2), too, only root may connect."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    path = tmp_path / "vhu0"
    with process.umask(0), pytest.raises(ListenError, match="socket-failed"):
        listeners.listen("vhu0", path, Owner(NOBODY, -1), 0o666)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["busy", "datagram"])
def test_a_live_socket_that_takes_no_connection_does_not_make_way(
    listeners: FrontEndListeners, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    kinds = {"busy": socket.SOCK_STREAM, "datagram": socket.SOCK_DGRAM}
    with socket.socket(socket.AF_UNIX, kinds[kind]) as other, ExitStack() as front_ends:
        other.bind("vhu0")
        if kind == "busy":
            other.listen(0)
            with pytest.raises(BlockingIOError):  # the queue is full
                for _ in range(8):
                    front_end = front_ends.enter_context(socket.socket(socket.AF_UNIX))
                    front_end.setblocking(False)
                    front_end.connect("vhu0")
        with pytest.raises(ListenError, match="socket-in-use"):
            listeners.listen("vhu0", tmp_path / "vhu0", None, 0o600)
    assert (tmp_path / "vhu0").is_socket()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_left_alone(
    listeners: FrontEndListeners, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "vhu0"
    {"file": path.touch, "directory": path.mkdir, "link": lambda: path.symlink_to("x")}[kind]()
    with pytest.raises(ListenError, match="socket-path-taken"):
        listeners.listen("vhu0", path, None, 0o600)
    assert path.is_symlink() or path.exists()


def test_a_directory_behind_a_strangers_link_is_refused(
    listeners: FrontEndListeners, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "here").symlink_to("there")
    listeners.listen("vhu0", tmp_path / "here/vhu0", None, 0o600).close()
    assert (tmp_path / "there/vhu0").is_socket()
    os.lchown(tmp_path / "here", NOBODY, -1)
    with pytest.raises(ListenError, match=r"socket-failed.*socket-link-not-trusted"):
        listeners.listen("vhu1", tmp_path / "here/vhu1", None, 0o600)
    assert not (tmp_path / "there/vhu1").exists()


@pytest.mark.parametrize("instead", ["file", "socket"])
def test_only_our_own_socket_is_unlinked(
    state: StateDir, listeners: FrontEndListeners, tmp_path: Path, instead: str
) -> None:
    path = tmp_path / "vhu0"
    with listeners.listen("vhu0", path, None, 0o600), socket.socket(socket.AF_UNIX) as other:
        path.rename(tmp_path / "moved")
        held = os.open(tmp_path, os.O_PATH)
        path.touch() if instead == "file" else other.bind(f"/proc/self/fd/{held}/vhu0")
        os.close(held)
        listeners.unlink("vhu0")
    assert path.exists() and state.ports() == set()


def test_of_an_earlier_releases_record_only_a_socket_is_unlinked(
    state: StateDir, listeners: FrontEndListeners, tmp_path: Path
) -> None:
    path = tmp_path / "vhu0"
    listeners.listen("vhu0", path, None, 0o600).close()
    state.listener("vhu0").write_text(f"{path}\n")
    listeners.unlink("vhu0")
    assert not path.exists()
    path.touch()
    state.listener("vhu0").write_text(f"{path}\n")
    listeners.unlink("vhu0")
    assert path.exists() and state.ports() == set()
