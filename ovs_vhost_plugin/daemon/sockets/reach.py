# SPDX-License-Identifier: Apache-2.0
"""Connects to a front-end's socket: walks the path, asks the policy before and after connecting.

Nothing here waits: the walk stays on file systems that answer (`mounts.py`), and a socket whose
queue is full is tried again later.
"""

import os
import pwd
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path

from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.daemon.sockets import listener, sockpath
from ovs_vhost_plugin.daemon.sockets.mounts import Mounts
from ovs_vhost_plugin.daemon.sockets.sockpath import OnStep, Place
from ovs_vhost_plugin.daemon.sockets.sockpolicy import (
    Found,
    Peer,
    SocketError,
    SocketErrorName,
    check_peer,
    check_socket,
)

_UCRED = struct.Struct("=iII")  # struct ucred: pid, uid, gid (unix(7))

_LOCKS = Path("/proc/locks")
_OVN_RUNDIRS = ("/run/ovn", "/var/run/ovn")


class Nobody(Enum):
    """Reasons why there is no front-end yet, where nothing has to be mended.

    ABSENT         nothing is at the path
    NOT_LISTENING  a socket is there: its listener has ended, or calls listen(2) in a moment
    BUSY           the listener has not taken the connections before this one
    """

    ABSENT = auto()
    NOT_LISTENING = auto()
    BUSY = auto()


def _ignore(_directory: int, _name: str) -> None:
    pass


class Reach:
    """Connects to the sockets of rows, by this machine's current state.

    rundirs   directories of the sockets and pidfiles of the switch's programs
    database  the switch's database, as the command line names it
    pids      our own processes, by pid
    dispose   closes a socket that a peer has had, see `connector.py`
    """

    def __init__(
        self,
        rundir: Path,
        state: StateDir,
        database: str,
        pids: Callable[[], Mapping[int, str]],
        mounts: Mounts,
        dispose: Callable[[int], None] = os.close,
    ) -> None:
        ovn = os.environ.get("OVN_RUNDIR")
        self._rundirs = [rundir, *map(Path, [ovn] if ovn else _OVN_RUNDIRS)]
        self._state = state
        self._database = database.removeprefix("unix:") if database.startswith("unix:") else ""
        self._pids = pids
        self._mounts = mounts
        self._dispose = dispose
        self._made: set[tuple[int, int]] = set()
        self._made_at = -1

    def connect(self, path: str, owner: str, on_step: OnStep = _ignore) -> socket.socket | Nobody:
        """A connection to a peer that the policy allows, or why there is nobody yet.

        `owner` is external_ids:vhost-user-socket-owner, or "". Raises SocketError for a fault that
        somebody has to mend first.
        """
        try:
            with sockpath.walk(path, self._mounts, on_step=on_step) as place:
                found = self._found(place)
                check_socket(found)
                sock = sockpath.connect(place)
                try:
                    self._check_peer(found, sock, owner)
                except BaseException:
                    self._dispose(sock.detach())
                    raise
                return sock
        except FileNotFoundError:
            return Nobody.ABSENT
        except ConnectionRefusedError:
            return Nobody.NOT_LISTENING
        except BlockingIOError:
            return Nobody.BUSY
        except PermissionError as error:
            raise SocketError(SocketErrorName.DENIED, f"{path}: {error.strerror}") from error
        except OSError as error:
            raise SocketError(SocketErrorName.UNREACHABLE, f"{path}: {error.strerror}") from error

    def _found(self, place: Place) -> Found:
        directory = _inode(os.fstat(place.directory))
        return Found(
            place.name,
            place.status.st_mode,
            place.status.st_nlink,
            place.status.st_uid,
            of_switch=directory in map(_inode_at, self._rundirs),
            private=directory == _inode_at(self._state.path)
            or (self._database != "" and place.inode == _inode_at(Path(self._database)))
            or place.inode in self._made_for_ports(),
            roots=place.roots,
        )

    def _made_for_ports(self) -> set[tuple[int, int]]:
        """The sockets of server mode; read again when a record has come or gone."""
        changed_at = self._state.path.stat().st_mtime_ns
        if self._made_at != changed_at:
            self._made, self._made_at = listener.made(self._state), changed_at
        return self._made

    def _check_peer(self, found: Found, sock: socket.socket, owner: str) -> None:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, _ = _UCRED.unpack(credentials)
        programs = {**self._programs(), **self._pids()}
        check_peer(found, Peer(pid, uid), _user(owner), programs)

    def _programs(self) -> dict[int, str]:
        """The processes that hold the lock of a pidfile in a run directory.

        The kernel names them, as a pidfile may be stale. The pidfile is not opened: closing our own
        again would free its lock (fcntl_locking(2)).
        """
        holders = dict(_lock_holders(_LOCKS.read_text()))
        found: dict[int, str] = {}
        for directory in self._rundirs:
            for pidfile in directory.glob("*.pid"):
                with suppress(OSError):
                    if (pid := holders.get(pidfile.stat().st_ino)) is not None:
                        found[pid] = f"the program of {pidfile}"
        return found


def _lock_holders(locks: str) -> Iterator[tuple[int, int]]:
    """Inode and process of each POSIX lock (proc_locks(5)).

    "1: POSIX  ADVISORY  WRITE 1234 00:1a:567 0 EOF"; for a waiting process, "1: -> POSIX ...".
    """
    for line in locks.splitlines():
        match line.split():
            case [_, "POSIX", _, _, pid, file, *_]:
                yield int(file.rpartition(":")[2]), int(pid)


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _inode_at(path: Path) -> tuple[int, int] | None:
    try:
        return _inode(path.stat())
    except OSError:
        return None


def _user(name: str) -> int | None:
    """The number of a user by name or number; None for no name."""
    if not name:
        return None
    if name.isascii() and name.isdecimal():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise SocketError(
            SocketErrorName.OWNER_UNKNOWN, f"this machine has no user {name!r:.80}"
        ) from None
