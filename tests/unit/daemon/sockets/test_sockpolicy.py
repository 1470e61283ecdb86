# SPDX-License-Identifier: Apache-2.0
"""With whom the daemon connects a worker: the cases, one a line."""

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from support.checkout import TOP

from ovs_vhost_plugin.daemon.sockets.sockpolicy import (
    Found,
    Peer,
    SocketError,
    SocketErrorName,
    check_peer,
    check_socket,
    owned_safely,
)

QEMU, OTHER, ROOT = 64055, 1000, 0
PROGRAMS = {7: "this daemon", 8: "the program of /run/ovs/ovsdb-server.pid"}

VM = Found("vhu0.sock", stat.S_IFSOCK | 0o755, 1, QEMU)


def test_a_socket_of_the_vm_is_tried() -> None:
    check_socket(VM)
    # Neutron's default has QEMU's sockets in the switch's own run directory.
    check_socket(replace(VM, of_switch=True))
    check_socket(replace(VM, name="db.sock"))


@pytest.mark.parametrize(
    ("found", "error"),
    [
        (replace(VM, mode=stat.S_IFREG | 0o644), "socket-is-none"),
        (replace(VM, mode=stat.S_IFIFO | 0o644), "socket-is-none"),
        (replace(VM, mode=stat.S_IFDIR | 0o755), "socket-is-none"),
        (replace(VM, links=2), "socket-hard-linked"),
        (replace(VM, links=0), "socket-hard-linked"),
        (replace(VM, private=True), "socket-foreign"),
        *(
            (replace(VM, of_switch=True, name=name), "socket-foreign")
            for name in (
                "db.sock",
                "db-2.sock",
                "ovnsb_db.sock",
                "br0.mgmt",
                "br0.snoop",
                "x.1.ctl",
            )
        ),
    ],
)
def test_sockets_that_are_not_tried(found: Found, error: str) -> None:
    with pytest.raises(SocketError) as caught:
        check_socket(found)
    assert caught.value.name == error and caught.value.text


ROOTS = replace(VM, owner=ROOT, roots=True)


@pytest.mark.parametrize(
    ("found", "peer", "owner", "error"),
    [
        # stock libvirt: QEMU has dropped to its user before it listens
        (VM, Peer(50, QEMU), None, ""),
        (VM, Peer(0, QEMU), None, ""),  # in a container
        (VM, Peer(50, QEMU), QEMU, ""),
        (VM, Peer(50, QEMU), OTHER, "socket-not-trusted"),
        # root made the socket, who listens is a user: nobody but root can have given it to them
        (replace(VM, owner=ROOT), Peer(50, QEMU), None, ""),
        (replace(VM, owner=OTHER), Peer(50, QEMU), None, "socket-not-trusted"),
        (replace(VM, owner=OTHER), Peer(50, QEMU), QEMU, "socket-not-trusted"),
        # a QEMU that is root
        (ROOTS, Peer(50, ROOT), None, ""),
        (ROOTS, Peer(50, ROOT), ROOT, ""),
        (ROOTS, Peer(50, ROOT), QEMU, "socket-not-trusted"),
        (replace(ROOTS, roots=False), Peer(50, ROOT), None, "socket-not-trusted"),
        (replace(ROOTS, roots=False), Peer(50, ROOT), ROOT, ""),
        # root listens on a user's socket: what was opened before privileges went, or another's
        (VM, Peer(50, ROOT), None, "socket-not-trusted"),
        (replace(VM, roots=True), Peer(50, ROOT), None, "socket-not-trusted"),
        (VM, Peer(50, ROOT), ROOT, ""),
        # the switch's, its database's and our own, whatever the row says
        (ROOTS, Peer(7, ROOT), None, "socket-foreign"),
        (ROOTS, Peer(8, ROOT), ROOT, "socket-foreign"),
        (VM, Peer(8, QEMU), None, "socket-foreign"),
    ],
)
def test_with_whom_a_worker_speaks(found: Found, peer: Peer, owner: int | None, error: str) -> None:
    if not error:
        check_peer(found, peer, owner, PROGRAMS)
        return
    with pytest.raises(SocketError) as caught:
        check_peer(found, peer, owner, PROGRAMS)
    assert caught.value.name == error and caught.value.text


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (
            lambda: check_socket(replace(VM, mode=stat.S_IFREG | 0o644)),
            f"socket-is-none: {VM.name!r} is no socket; remove it",
        ),
        (
            lambda: check_socket(replace(VM, private=True)),
            "socket-foreign: the socket is the switch's, its database's, another port's or our "
            "own; give the VM's",
        ),
        (
            lambda: check_socket(replace(VM, links=2)),
            "socket-hard-linked: the socket has 2 names, so that somebody else's may be meant; "
            "remove the others",
        ),
        (
            lambda: check_peer(VM, Peer(50, ROOT), None, PROGRAMS),
            "socket-not-trusted: root listens on it where others than root could have put it; "
            "if the VM runs as root, set external_ids:vhost-user-socket-owner=root",
        ),
    ],
)
def test_a_refusal_says_what_to_do(check: Callable[[], None], text: str) -> None:
    with pytest.raises(SocketError) as caught:
        check()
    assert str(caught.value) == text


def status(uid: int, mode: int, gid: int = 0) -> os.stat_result:
    found: Any = SimpleNamespace(st_uid=uid, st_gid=gid, st_mode=mode)
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("directory", "entry_owner", "safe"),
    [
        (status(ROOT, 0o755), OTHER, True),
        (status(ROOT, 0o775), OTHER, True),  # root's group is root
        (status(ROOT, 0o775, gid=5), OTHER, False),
        (status(ROOT, 0o755, gid=5), OTHER, True),
        (status(ROOT, 0o777), ROOT, False),
        (status(ROOT, 0o1777), ROOT, True),
        (status(ROOT, 0o1777), OTHER, False),
        (status(ROOT, 0o1775, gid=5), ROOT, True),
        (status(OTHER, 0o755), ROOT, False),
        (status(OTHER, 0o1777), ROOT, False),
    ],
)
def test_who_can_have_put_something_into_a_directory(
    directory: os.stat_result, entry_owner: int, safe: bool
) -> None:
    assert owned_safely(directory, status(entry_owner, 0o644)) is safe


def test_each_name_is_explained() -> None:
    docs = (TOP / "docs/sockets.md").read_text()
    assert {name for name in SocketErrorName if f"\n| `{name}` |" not in docs} == set()
