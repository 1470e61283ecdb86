# SPDX-License-Identifier: Apache-2.0
"""The sockets that the daemon makes for a worker, which may make none itself.

What was made is recorded in the state directory: only recorded paths are ever unlinked, never one
that a worker names.
"""

import grp
import os
import pwd
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ovs_vhost_plugin import process
from ovs_vhost_plugin.dirs import StateDir
from ovs_vhost_plugin.named import NamedError

_BACKLOG = 8


class ListenErrorName(StrEnum):
    """Why there is no socket for the front-end to connect to."""

    PATH_TAKEN = "socket-path-taken"
    IN_USE = "socket-in-use"
    FAILED = "socket-failed"


class ListenError(NamedError):
    """A socket could not be made; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A user and a group by number; -1: as it is (chown(2))."""

    uid: int
    gid: int

    @classmethod
    def parse(cls, text: str) -> "Owner":
        """Read USER[:GROUP], names or numbers; ValueError says which is unknown."""
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
    """The worker's control socket. What was there is of a worker that has ended."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind(os.fspath(path))
    sock.listen(_BACKLOG)
    return sock


def listen_front_end(
    state: StateDir, name: str, path: Path, owner: Owner | None, mode: int
) -> socket.socket:
    """The socket of a port in server mode, for those whom `owner` and `mode` let connect."""
    try:
        _clear(path)
        with process.umask(0o022):  # QEMU's user passes through it
            path.parent.mkdir(parents=True, exist_ok=True)
        state.listener(name).write_text(f"{path}\n")
        return _bind(path, owner, mode)
    except OSError as error:
        raise ListenError(ListenErrorName.FAILED, f"{path}: {error.strerror}") from error


def unlink_front_end(state: StateDir, name: str) -> None:
    """Remove the socket that was made for a port, if any."""
    record = state.listener(name)
    with suppress(FileNotFoundError):
        path = Path(record.read_text().removesuffix("\n"))
        if _is_socket(path):
            path.unlink()
        record.unlink()


def _bind(path: Path, owner: Owner | None, mode: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Nobody gets in before owner and mode are set.
    before = os.umask(0o177)
    try:
        sock.bind(os.fspath(path))
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    if owner is not None:
        os.chown(path, owner.uid, owner.gid)
    path.chmod(mode)
    sock.listen(_BACKLOG)
    return sock


def _clear(path: Path) -> None:
    """Unlink a socket on which nobody listens any more; refuse all else that is there."""
    if not path.exists() and not path.is_symlink():
        return
    if not _is_socket(path):
        raise ListenError(ListenErrorName.PATH_TAKEN, f"{path} exists and is no socket; remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError:
            pass  # another kind of socket, or one with a full queue: alive either way
    raise ListenError(
        ListenErrorName.IN_USE, f"another program listens on {path}; stop it or rename the port"
    )


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return False
