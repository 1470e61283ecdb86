# SPDX-License-Identifier: Apache-2.0
"""The peers to which the daemon connects a worker. Pure: findings in, a named refusal out.

The path of a port leads into a directory that the VM's user may write, and the worker at the other
end may be compromised. So the daemon connects only if the listener is plainly the VM's user; to
root only where only root can have put the socket there; and never to the switch, its database or
ourselves.
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
"""Names of the sockets of Open vSwitch's and OVN's programs in their run directories."""


class SocketErrorName(StrEnum):
    """Reasons why a port gets no connection, until somebody mends them."""

    LINK = "socket-link-not-trusted"
    FILE_SYSTEM = "socket-file-system"
    NO_SOCKET = "socket-is-none"
    HARD_LINKED = "socket-hard-linked"
    FOREIGN = "socket-foreign"
    NOT_TRUSTED = "socket-not-trusted"
    OWNER_UNKNOWN = "socket-owner-unknown"
    DENIED = "socket-denied"
    UNREACHABLE = "socket-unreachable"
    UNWATCHED = "socket-unwatched"


class SocketError(NamedError):
    """A socket that the daemon does not connect to; the text has a remedy."""


@dataclass(frozen=True, slots=True)
class Found:
    """The file at the end of a path.

    name       the last name on the way
    of_switch  the file is in a run directory of the switch's programs
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
    """The listener at the time of listen(2) (unix(7), SO_PEERCRED). pid 0: another namespace's."""

    pid: int
    uid: int


def check_socket(found: Found) -> None:
    """Raise SocketError for a socket to which the daemon must not connect."""
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
    """Raise SocketError if a worker must not speak with the listener.

    owner     the only allowed user, by the port's row; None: the row names none
    programs  pids of the switch's programs and of ours → their names
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

    The group's bits of a directory with an access control list are its mask (acl(5)), so they show
    further writers too.
    """
    if directory.st_uid != 0:
        return False
    writable = directory.st_mode & stat.S_IWOTH or (
        directory.st_mode & stat.S_IWGRP and directory.st_gid != 0
    )
    if not writable:
        return True
    return bool(directory.st_mode & stat.S_ISVTX) and entry.st_uid == 0
