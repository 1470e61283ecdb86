# SPDX-License-Identifier: Apache-2.0
"""Walks a path to its file with a descriptor for each step, following no stranger's links.

The daemon is root, and the directories of sockets belong to others, who may replace any file by
another at any moment. So a path is walked name by name, from the descriptor of one directory to the
next, and the result is a descriptor that nobody can exchange any more. Links are followed where
root made them, as orchestrators shorten long paths; nobody else's are. The file is used through
/proc/self/fd (proc(5)), which also avoids the limit of 107 bytes of a socket's address.
"""

import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from ovs_vhost_plugin.common import process
from ovs_vhost_plugin.daemon.sockets.mounts import Mounts, mount_of
from ovs_vhost_plugin.daemon.sockets.sockpolicy import SocketError, SocketErrorName, owned_safely

_MAX_LINKS = 40  # as the kernel's own (path_resolution(7))
_HOLD = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_SO_PASSRIGHTS = 83  # asm-generic/socket.h, since Linux 6.16


OnStep = Callable[[int, str], None]
"""Called before a walk looks for a name: with its directory, held as an open fd, and the name."""


@dataclass(frozen=True, slots=True)
class Place:
    """A file and its directory, both open with O_PATH while the walk's context lasts.

    status   the file's status; it is no link
    roots    only root can have put the file, and everything on the way, in its place
    """

    fd: int
    directory: int
    name: str
    status: os.stat_result
    roots: bool

    @property
    def inode(self) -> tuple[int, int]:
        """Device and inode, which identify the file under any name."""
        return self.status.st_dev, self.status.st_ino


def name_of(fd: int) -> str:
    """A path to exactly the file that is open as `fd`, under any name (proc(5))."""
    return f"/proc/self/fd/{fd}"


class _Walk:
    """A directory on the way, and the descriptors held meanwhile."""

    def __init__(self, mounts: Mounts, on_step: OnStep) -> None:
        self._mounts = mounts
        self._on_step = on_step
        self._trusted = {0, os.geteuid()}
        self._mount = -1
        self.links = 0
        self.roots = True
        self.directory = os.open("/", _HOLD)
        self.status = os.fstat(self.directory)

    def look(self, name: str) -> tuple[int, os.stat_result]:
        """Open `name` of the directory with O_PATH, and check that its file system answers.

        Reading the status asks the file system, so it comes after that check.
        """
        self._on_step(self.directory, name)
        fd = os.open(name, _HOLD, dir_fd=self.directory)
        try:
            self._stay(fd, name)
            found = os.fstat(fd)
        except BaseException:
            os.close(fd)
            raise
        self.roots = self.roots and owned_safely(self.status, found)
        return fd, found

    def look_or_make(self, name: str) -> tuple[int, os.stat_result]:
        """As `look`; make a directory where there is nothing."""
        try:
            return self.look(name)
        except FileNotFoundError:
            _make(name, self.directory)
            return self.look(name)

    def _stay(self, fd: int, name: str) -> None:
        mount = mount_of(fd)
        if mount != self._mount:
            _check_mount(mount, name, self._mounts)
            self._mount = mount

    def enter(self, fd: int, found: os.stat_result) -> None:
        """Continue from this directory."""
        os.close(self.directory)
        self.directory, self.status = fd, found

    def follow(self, fd: int, name: str, found: os.stat_result) -> list[str]:
        """The names in a link's target, if the link may be followed; closes `fd`."""
        try:
            target = os.readlink("", dir_fd=fd)
        finally:
            os.close(fd)
        self.links += 1
        if found.st_uid not in self._trusted:
            raise SocketError(
                SocketErrorName.LINK,
                f"{name!r} is a symbolic link of user {found.st_uid}; only root's are followed",
            )
        if self.links > _MAX_LINKS:
            raise SocketError(SocketErrorName.LINK, f"more than {_MAX_LINKS} symbolic links")
        if target.startswith("/"):
            root = os.open("/", _HOLD)
            self._mount = -1
            self.enter(root, os.fstat(root))
        return _names(target)


@contextmanager
def walk(
    path: str,
    mounts: Mounts,
    *,
    make: bool = False,
    on_step: OnStep = lambda _directory, _name: None,
) -> Iterator[Place]:
    """Walk to the file at `path`, which is absolute; with `make`, make missing directories.

    Raises SocketError for a step that is refused, and the kernel's OSErrors: FileNotFoundError for
    a missing file.
    """
    steps = _Walk(mounts, on_step)
    fd = -1
    try:
        names = _names(path)
        while names:
            name = names.pop()
            fd, found = steps.look_or_make(name) if make else steps.look(name)
            if stat.S_ISLNK(found.st_mode):
                linked, fd = fd, -1
                names += steps.follow(linked, name, found)
            elif names:
                steps.enter(fd, found)
                fd = -1
            else:
                yield Place(fd, steps.directory, name, found, steps.roots)
                return
        raise IsADirectoryError(f"{path} names no file")
    finally:
        os.close(steps.directory)
        if fd >= 0:
            os.close(fd)


@contextmanager
def look(directory: int, name: str, mounts: Mounts) -> Iterator[Place]:
    """The file `name` in the directory at the end of a walk; it may be a link."""
    fd = os.open(name, _HOLD, dir_fd=directory)
    try:
        _check_mount(mount_of(fd), name, mounts)
        yield Place(fd, directory, name, os.fstat(fd), roots=False)
    finally:
        os.close(fd)


def _check_mount(mount: int, name: str, mounts: Mounts) -> None:
    if kind := mounts.foreign(mount):
        raise SocketError(
            SocketErrorName.FILE_SYSTEM,
            f"{name!r} is of a file system of kind {kind}, which may never answer; "
            "use a path on tmpfs or on a disk",
        )


def connect(place: Place) -> socket.socket:
    """Connect to the socket of a place, without waiting; OSError of connect(2).

    The connection has no more power than the socket's owner, so that its peer does not take the
    request for root's. Since Linux 6.16 the peer can also send no descriptor before `take_rights`.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with suppress(OSError):  # an older kernel
            sock.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
        with _as_user(place.status.st_uid):
            sock.connect(name_of(place.fd))
    except OSError:
        sock.close()  # not connected, so nobody has sent anything into it
        raise
    return sock


def take_rights(sock: socket.socket) -> None:
    """Let the peer send descriptors from here on."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 1)


@contextmanager
def _as_user(uid: int) -> Iterator[None]:
    """Take this user for permission checks; real and saved user stay root (credentials(7))."""
    before = os.geteuid()
    if before != 0 or uid == 0:
        yield
        return
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(before)


def _make(name: str, directory: int) -> None:
    """Make a directory, if it is missing, that all may pass and only root may change."""
    with process.umask(0o022), suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=directory)


def _names(path: str) -> list[str]:
    """The names of a path, the first one last."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]
