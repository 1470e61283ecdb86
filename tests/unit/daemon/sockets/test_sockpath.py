# SPDX-License-Identifier: Apache-2.0
"""Paths walked on a real file system: what is followed, what is held, what is refused."""

import os
import socket
import stat
from pathlib import Path

import pytest

from ovs_vhost_plugin.daemon.sockets import sockpath
from ovs_vhost_plugin.daemon.sockets.mounts import Mounts, mount_of
from ovs_vhost_plugin.daemon.sockets.sockpolicy import SocketError

NOBODY = 65534


@pytest.fixture(scope="module")
def mounts() -> Mounts:
    return Mounts()


def give(path: Path, uid: int) -> None:
    """Give a link to another user, as only root can."""
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.lchown(path, uid, -1)


def found_at(path: Path, mounts: Mounts) -> tuple[int, int]:
    with sockpath.walk(str(path), mounts) as place:
        return place.inode


def inode(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_path_leads_to_its_file_by_dots_and_links_of_our_own(
    tmp_path: Path, mounts: Mounts
) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    file = tmp_path / "a/b/file"
    file.touch()
    (tmp_path / "absolute").symlink_to(tmp_path / "a")
    (tmp_path / "a/relative").symlink_to("../a/./b")
    (tmp_path / "last").symlink_to("absolute/relative/file")
    before = open_files()
    for text in ("a/b/file", "a/.//b/../b/file", "absolute/b/file", "a/relative/file", "last"):
        assert found_at(tmp_path / text, mounts) == inode(file)
        assert found_at(Path(f"{tmp_path}/{text}"), mounts) == inode(file)
    assert open_files() == before


def test_what_is_not_there_is_not_found_and_nothing_stays_open(
    tmp_path: Path, mounts: Mounts
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nothing")
    before = open_files()
    for text, error in {
        "nothing": FileNotFoundError,
        "nothing/more": FileNotFoundError,
        "dangling": FileNotFoundError,
        "file/more": NotADirectoryError,
    }.items():
        with pytest.raises(error):
            found_at(tmp_path / text, mounts)
    with pytest.raises(IsADirectoryError):
        found_at(Path("/"), mounts)
    assert open_files() == before


@pytest.mark.parametrize("link", ["last", "directory"])
def test_a_link_of_a_stranger_is_not_followed(tmp_path: Path, mounts: Mounts, link: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").touch()
    (tmp_path / "last").symlink_to("a/file")
    (tmp_path / "directory").symlink_to("a")
    give(tmp_path / link, NOBODY)
    before = open_files()
    path = tmp_path / ("last" if link == "last" else "directory/file")
    with pytest.raises(
        SocketError, match=f"'{link}' is a symbolic link of user {NOBODY}"
    ) as caught:
        found_at(path, mounts)
    assert caught.value.name == "socket-link-not-trusted"
    assert open_files() == before


def test_links_do_not_lead_round_for_ever(tmp_path: Path, mounts: Mounts) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "l0").symlink_to("file")
    for number in range(1, 42):
        (tmp_path / f"l{number}").symlink_to(f"l{number - 1}")
    assert found_at(tmp_path / "l39", mounts) == inode(tmp_path / "file")
    with pytest.raises(SocketError, match="more than 40 symbolic links"):
        found_at(tmp_path / "l40", mounts)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SocketError, match="socket-link-not-trusted"):
        found_at(tmp_path / "loop", mounts)


def test_links_of_a_process_are_not_followed_out_of_its_file_system(mounts: Mounts) -> None:
    """/proc/PID/root leads into the mounts of another process; no text says so."""
    with pytest.raises(SocketError, match="of kind proc"):
        found_at(Path("/proc/self/root/etc/passwd"), mounts)


def test_a_socket_is_connected_by_what_is_held_however_long_its_path_is(
    tmp_path: Path, mounts: Mounts
) -> None:
    directory = tmp_path / ("x" * 200) / ("y" * 200)
    directory.mkdir(parents=True)
    held = os.open(directory, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{held}/vm.sock")
        os.close(held)
        listener.listen(1)
        with sockpath.walk(str(directory / "vm.sock"), mounts) as place:
            # What is put in its place now is too late.
            (directory / "vm.sock").rename(directory / "moved")
            (directory / "vm.sock").symlink_to("/dev/null")
            with sockpath.connect(place) as connection, listener.accept()[0] as accepted:
                sockpath.take_rights(connection)
                socket.send_fds(accepted, [b"x"], [0])
                received, fds, _, _ = socket.recv_fds(connection, 1, 1)
                assert received == b"x" and len(fds) == 1
                os.close(fds[0])
                assert connection.getblocking() is False


def test_a_full_queue_and_nobody_are_told_without_waiting(tmp_path: Path, mounts: Mounts) -> None:
    path = tmp_path / "s"
    held = os.open(tmp_path, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{held}/s")
        os.close(held)
        with sockpath.walk(str(path), mounts) as place:
            with pytest.raises(ConnectionRefusedError):
                sockpath.connect(place)
            listener.listen(0)
            with sockpath.connect(place), pytest.raises(BlockingIOError):
                sockpath.connect(place)


def test_the_one_who_accepts_sees_the_power_of_the_sockets_owner_only(
    tmp_path: Path, mounts: Mounts
) -> None:
    path = tmp_path / "s"
    held = os.open(tmp_path, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{held}/s")
        os.close(held)
        give(path, NOBODY)
        listener.listen(1)
        with (
            sockpath.walk(str(path), mounts) as place,
            sockpath.connect(place),
            listener.accept()[0] as accepted,
        ):
            seen = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            assert int.from_bytes(seen[4:8], "little") == NOBODY
    assert os.geteuid() == 0


def test_who_can_have_changed_what_is_on_the_way(tmp_path: Path, mounts: Mounts) -> None:
    if os.geteuid() != 0:
        pytest.skip("root's paths are root's to make")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").touch()

    def is_roots() -> bool:
        with sockpath.walk(str(tmp_path / "a/file"), mounts) as place:
            return place.roots

    assert is_roots()
    (tmp_path / "a").chmod(0o777)
    assert not is_roots()
    (tmp_path / "a").chmod(0o1777)
    assert is_roots()
    give(tmp_path / "a/file", NOBODY)
    assert not is_roots()
    (tmp_path / "a").chmod(0o755)
    assert is_roots()
    give(tmp_path / "a", NOBODY)
    assert not is_roots()


def test_missing_directories_are_made_for_all_to_pass_and_for_none_to_write(
    tmp_path: Path, mounts: Mounts
) -> None:
    before = os.umask(0)
    try:
        with sockpath.walk(str(tmp_path / "a/b"), mounts, make=True) as place:
            assert place.inode == inode(tmp_path / "a/b")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755
    (tmp_path / "a").chmod(0o711)
    with sockpath.walk(str(tmp_path / "a/b"), mounts, make=True):
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o711


def test_mounts_are_known_by_their_kind(tmp_path: Path, mounts: Mounts) -> None:
    kinds = {}
    for path in ("/", "/proc", str(tmp_path)):
        fd = os.open(path, os.O_PATH)
        kinds[path] = mounts.foreign(mount_of(fd))
        os.close(fd)
    assert kinds == {"/": None, "/proc": "proc", str(tmp_path): None}
    assert mounts.foreign(1 << 40) == "unknown"
