# SPDX-License-Identifier: Apache-2.0
"""The sockets that the daemon makes for a worker, which may make none itself.

Each socket is recorded in the state directory, as device and inode beside the path: only that inode
is ever unlinked, never a file that a worker names or somebody has put in its place. Others may
write the directory of a port's socket, so it is reached as a front-end's is (`sockpath.py`), and
owner and mode are set on the socket's own inode, never by its name.
"""

import grp
import os
import pwd
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from fcntl import ioctl
from pathlib import Path

from ovs_vhost_plugin.common import process
from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.common.named import NamedError
from ovs_vhost_plugin.daemon.sockets import sockpath
from ovs_vhost_plugin.daemon.sockets.mounts import Mounts
from ovs_vhost_plugin.daemon.sockets.sockpath import Place
from ovs_vhost_plugin.daemon.sockets.sockpolicy import SocketError

_BACKLOG = 8
_SIOCUNIXFILE = 0x89E0  # linux/un.h: an O_PATH fd of the file that a socket is bound to


class ListenErrorName(StrEnum):
    """Reasons why there is no socket for the front-end to connect to."""

    PATH_TAKEN = "socket-path-taken"
    IN_USE = "socket-in-use"
    FAILED = "socket-failed"


class ListenError(NamedError):
    """A socket could not be made; the text has a remedy."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A user and a group by number; -1: unchanged (chown(2))."""

    uid: int
    gid: int

    @classmethod
    def parse(cls, text: str) -> "Owner":
        """Read USER[:GROUP], names or numbers; ValueError names an unknown one."""
        user, _, group = text.partition(":")
        try:
            uid = int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
        except KeyError:
            raise ValueError(f"no user {user!r}") from None
        try:
            gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid if group else -1
        except KeyError:
            raise ValueError(f"no group {group!r}") from None
        return cls(uid, gid)


def listen_control(path: Path) -> socket.socket:
    """Listen on the worker's control socket. An old one at the path is of an ended worker."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind(os.fspath(path))
    sock.listen(_BACKLOG)
    return sock


@dataclass(frozen=True, slots=True)
class Made:
    """A socket made for a port: path and inode. inode None: an earlier release's record."""

    path: str
    inode: tuple[int, int] | None

    @classmethod
    def read(cls, record: Path) -> "Made":
        """Read a record; OSError if there is none."""
        path, *inode = record.read_text().splitlines()
        return cls(path, (int(inode[0]), int(inode[1])) if len(inode) == 2 else None)

    def write(self, record: Path) -> None:
        """Write the record."""
        assert self.inode is not None
        record.write_text("\n".join([self.path, *map(str, self.inode)]) + "\n")


def made(state: StateDir) -> set[tuple[int, int]]:
    """The inodes of all sockets made for ports."""
    found = set()
    for record in state.listeners():
        with suppress(OSError, ValueError):
            found.add(Made.read(record).inode)
    return {inode for inode in found if inode is not None}


class FrontEndListeners:
    """The sockets of ports in server mode."""

    def __init__(
        self, state: StateDir, mounts: Mounts, dispose: Callable[[int], None] = os.close
    ) -> None:
        """`dispose` closes a socket that a peer has had, see `connector.py`."""
        self._state = state
        self._mounts = mounts
        self._dispose = dispose

    def listen(self, name: str, path: Path, owner: Owner | None, mode: int) -> socket.socket:
        """Make a port's socket, to which `owner` and `mode` let connect. Raises ListenError."""
        try:
            with sockpath.walk(os.fspath(path.parent), self._mounts, make=True) as directory:
                self._clear(directory.fd, path)
                sock, inode = _bind(directory.fd, path.name, owner, mode)
            try:
                Made(os.fspath(path), inode).write(self._state.listener(name))
            except OSError:
                self._dispose(sock.detach())
                raise
        except SocketError as error:
            raise ListenError(ListenErrorName.FAILED, f"{path.parent}: {error}") from error
        except OSError as error:
            raise ListenError(ListenErrorName.FAILED, f"{path}: {error.strerror}") from error
        return sock

    def discard(self, sock: socket.socket) -> None:
        """Close a socket that got no worker, if it is open: somebody may have connected to it."""
        if (fd := sock.detach()) >= 0:
            self._dispose(fd)

    def unlink(self, name: str) -> None:
        """Remove the socket made for a port, if any."""
        record = self._state.listener(name)
        try:
            found = Made.read(record)
        except FileNotFoundError:
            return
        with (
            suppress(OSError, SocketError),
            sockpath.walk(found.path, self._mounts) as place,
        ):
            if place.inode == found.inode or (found.inode is None and _is_socket(place)):
                os.unlink(place.name, dir_fd=place.directory)
        record.unlink(missing_ok=True)

    def _clear(self, directory: int, path: Path) -> None:
        """Unlink a socket on which nobody listens any more; refuse any other file there."""
        try:
            with sockpath.look(directory, path.name, self._mounts) as place:
                if not _is_socket(place):
                    raise ListenError(
                        ListenErrorName.PATH_TAKEN, f"{path} exists and is no socket; remove it"
                    )
                if self._listened_on(place):
                    raise ListenError(
                        ListenErrorName.IN_USE,
                        f"another program listens on {path}; stop it or rename the port",
                    )
            os.unlink(path.name, dir_fd=directory)
        except FileNotFoundError:
            pass

    def _listened_on(self, place: Place) -> bool:
        """Whether somebody listens. Only connecting tells, for sockets of all network namespaces.

        The connection sends nothing and has no more power than the socket's owner.
        """
        try:
            self._dispose(sockpath.connect(place).detach())
        except ConnectionRefusedError:
            return False
        except OSError:
            pass  # another kind of socket, or one with a full queue: alive either way
        return True


def _bind(
    directory: int, name: str, owner: Owner | None, mode: int
) -> tuple[socket.socket, tuple[int, int]]:
    """Make and open the socket; return it with its device and inode."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Nobody gets in before owner and mode are set, and nobody is let in before listen(2).
    try:
        with process.umask(0o177):
            sock.bind(f"{sockpath.name_of(directory)}/{name}")
        file = ioctl(sock, _SIOCUNIXFILE)
        try:
            if owner is not None:
                os.chown(sockpath.name_of(file), owner.uid, owner.gid)
            Path(sockpath.name_of(file)).chmod(mode)
            found = os.fstat(file)
        finally:
            os.close(file)
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock, (found.st_dev, found.st_ino)


def _is_socket(place: Place) -> bool:
    return stat.S_ISSOCK(place.status.st_mode)
