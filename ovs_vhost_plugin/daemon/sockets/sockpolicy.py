# SPDX-License-Identifier: Apache-2.0
"""With whom the daemon connects a worker. Pure: what was found goes in, a named refusal comes out.

The path of a port leads into a directory that the VM's user may write, and the worker at the other
end may have been taken over. So a connection is had only where the one who listens is plainly the
VM's user; with root only where nobody but root can have put the socket there; and never with the
switch, its database or ourselves.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from ovs_vhost_plugin.common.named import NamedError

OWNER_KEY = "vhost-user-socket-owner"

_SWITCH_SOCKETS = ("*.ctl", "*.mgmt", "*.snoop", "db*.sock", "*_db.sock")
"""What the programs of the family call their sockets in their run directories."""


class SocketErrorName(StrEnum):
    """Why a port gets no connection, until somebody mends it."""

    LINK = "socket-link-not-trusted"
    FILE_SYSTEM = "socket-file-system"
    NO_SOCKET = "socket-is-none"
    HARD_LINKED = "socket-hard-linked"
    FOREIGN = "socket-foreign"
    NOT_TRUSTED = "socket-not-trusted"
    OWNER_UNKNOWN = "socket-owner-unknown"
    DENIED = "socket-denied"
    UNREACHABLE = "socket-unreachable"


class SocketError(NamedError):
    """A socket that the daemon does not connect to; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a path has led to.

    name       the last name on the way
    of_switch  it is in a run directory of the switch's programs
    private    it is in our own state directory, or the database's, or made for another port
    roots      see `sockpath.Place`
    """

    name: str
    mode: int
    links: int
    owner: int
    of_switch: bool = False
    private: bool = False
    roots: bool = False


@dataclass(frozen=True, slots=True)
class Peer:
    """Who listens, at the time of listen(2) (unix(7), SO_PEERCRED). pid 0: of another namespace."""

    pid: int
    uid: int


def check_socket(found: Found) -> None:
    """Raise SocketError for what is not even to be tried."""
    if not stat.S_ISSOCK(found.mode):
        raise SocketError(SocketErrorName.NO_SOCKET, f"{found.name!r} is no socket; remove it")
    named_by_switch = any(fnmatchcase(found.name, pattern) for pattern in _SWITCH_SOCKETS)
    if found.private or (found.of_switch and named_by_switch):
        raise SocketError(
            SocketErrorName.FOREIGN,
            "the socket is the switch's, its database's, another port's or our own; give the VM's",
        )
    if found.links != 1:
        raise SocketError(
            SocketErrorName.HARD_LINKED,
            f"the socket has {found.links} names, so that somebody else's may be meant; "
            "remove the others",
        )


def check_peer(found: Found, peer: Peer, owner: int | None, programs: Mapping[int, str]) -> None:
    """Raise SocketError where a worker shall not speak with the one who listens.

    owner     the only user to be spoken with, as the port's row says; None: it does not say
    programs  pids of the switch's programs and of ours, and what each is
    """
    if who := programs.get(peer.pid):
        raise SocketError(SocketErrorName.FOREIGN, f"{who} listens on it; give the VM's socket")
    if owner is not None and peer.uid != owner:
        raise SocketError(
            SocketErrorName.NOT_TRUSTED,
            f"user {peer.uid} listens on it, and external_ids:{OWNER_KEY} names user {owner}",
        )
    if peer.uid == 0:
        if owner is None and not (found.roots and found.owner == 0):
            raise SocketError(
                SocketErrorName.NOT_TRUSTED,
                "root listens on it where others than root could have put it; if the VM runs as "
                f"root, set external_ids:{OWNER_KEY}=root",
            )
    elif found.owner not in (peer.uid, 0):
        raise SocketError(
            SocketErrorName.NOT_TRUSTED,
            f"user {peer.uid} listens on it, but it belongs to user {found.owner}",
        )


def owned_safely(directory: os.stat_result, entry: os.stat_result) -> bool:
    """Whether only root can have put this entry into this directory.

    The group's bits of a directory with an access control list are its mask (acl(5)), so they tell
    of more writers as well.
    """
    if directory.st_uid != 0:
        return False
    writable = directory.st_mode & stat.S_IWOTH or (
        directory.st_mode & stat.S_IWGRP and directory.st_gid != 0
    )
    if not writable:
        return True
    return bool(directory.st_mode & stat.S_ISVTX) and entry.st_uid == 0
