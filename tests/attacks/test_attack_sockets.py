# SPDX-License-Identifier: Apache-2.0
"""A VM's user who leads the daemon to other sockets than its VM's: it is named, and goes nowhere.

The daemon connects as root for workers that a guest may have taken over, and the VM's user may put
anything in the place of its socket. So each of these would otherwise hand a worker a connection to
the database, to another VM, to whom the user itself may not speak with.
"""

import contextlib
import ctypes
import itertools
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.attacks.stranger import NEIGHBOUR, TENANT, listening_as, run_as, running_as
from support.control.stuck_files import lingering_socket

from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.daemon.sockets.listener import FrontEndListeners, ListenError, Owner
from ovs_vhost_plugin.daemon.sockets.mounts import Mounts
from ovs_vhost_plugin.lab.hosts.host import Host
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system

_names = (f"vhu{n}" for n in itertools.count())


class Site:
    """A host, and beside its run directory the directories of two VMs' users."""

    def __init__(self, host: Host, top: Path) -> None:
        self.host = host
        self.tenant = _directory(top / "tenant", TENANT)
        self.neighbour = _directory(top / "neighbour", NEIGHBOUR)

    def port(self, path: Path, *settings: str) -> str:
        name = next(_names)
        self.host.add_client_port(name, path, *settings)
        return name

    def wait_error(self, port: str, error: str) -> str:
        def named() -> str | None:
            found = self.host.status(port).get("error", "")
            return found if found.startswith(f"{error}: ") else None

        return wait_until(named, f"{port}: {error}")

    def wait_refused(self, port: str, error: str) -> None:
        """The port shows the name, and its worker was never connected."""
        self.wait_error(port, error)
        assert error in self.host.appctl("vhost/show")
        assert self.host.stats(port)["connections"] == 0

    def wait_connected(self, port: str) -> None:
        wait_until(lambda: self.host.stats(port)["connections"] > 0, f"{port}: a connection")


def _directory(path: Path, owner: int) -> Path:
    path.mkdir(parents=True)
    os.chown(path, owner, owner)
    return path


@pytest.fixture(scope="module")
def hanging(directory: Path) -> Iterator[Path | None]:
    """A FUSE file system of the tenant's that never answers, and lets root in; None without FUSE.

    As fusermount3(1) mounts it for any user where fuse.conf has `user_allow_other`. It is there
    before the host, whose processes see the mounts of their start.
    """
    if not Path("/dev/fuse").exists():
        yield None
        return
    path = directory / "fuse"
    path.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    served = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={served},rootmode=40000,user_id={TENANT},group_id={TENANT},allow_other"
    try:
        mounted = libc.mount(b"evil", bytes(path), b"fuse.evil", 6, options.encode()) == 0
        yield path if mounted else None
        if mounted:
            libc.umount2(bytes(path), 2)  # MNT_DETACH
    finally:
        os.close(served)  # whoever hangs in it goes on


@pytest.fixture(scope="module")
def site(directory: Path, hanging: Path | None, host: Host) -> Site:
    return Site(host, directory)


@pytest.fixture
def spot(site: Site) -> Iterator[Path]:
    """Where the tenant's VM is to listen; whatever is there goes afterwards."""
    path = site.tenant / next(_names)
    yield path
    path.unlink(missing_ok=True)


def test_the_vms_own_socket_is_connected(site: Site, spot: Path) -> None:
    port = site.port(spot)
    site.host.wait_ready(port)
    with listening_as(TENANT, spot) as listener, listener.accept()[0] as accepted:
        site.wait_connected(port)
        # Whoever is behind it sees the power of its own user, and not root's.
        seen = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        assert struct.unpack("=iII", seen)[1] == TENANT


@pytest.mark.parametrize("what", ["database", "worker", "bridge", "neighbour"])
def test_a_link_in_the_place_of_the_socket_leads_nowhere(site: Site, spot: Path, what: str) -> None:
    other = site.port(site.neighbour / "vm.sock")
    site.host.wait_ready(other)
    with listening_as(NEIGHBOUR, site.neighbour / "vm.sock"):
        target = {
            "database": site.host.directory / "db.sock",
            "worker": site.host.directory / "ovs-vhost" / f"{other}.ctl",
            "bridge": site.host.directory / "br0.mgmt",
            "neighbour": site.neighbour / "vm.sock",
        }[what]
        assert target.is_socket()
        run_as(TENANT, lambda: spot.symlink_to(target))
        site.wait_refused(site.port(spot), "socket-link-not-trusted")
    site.host.delete_port(other)


def test_a_link_in_the_place_of_a_directory_leads_nowhere(site: Site, spot: Path) -> None:
    run_as(TENANT, lambda: spot.symlink_to(site.host.directory))
    site.wait_refused(site.port(spot / "db.sock"), "socket-link-not-trusted")


def test_another_vms_socket_under_a_second_name_is_not_connected(site: Site, spot: Path) -> None:
    theirs = site.neighbour / "linked.sock"
    with listening_as(NEIGHBOUR, theirs):
        try:
            run_as(TENANT, lambda: spot.hardlink_to(theirs))
        except AssertionError:
            # fs.protected_hardlinks=1 (proc_sys_fs(5)) forbids it; where it is 0 it is as if:
            spot.hardlink_to(theirs)
        site.wait_refused(site.port(spot), "socket-hard-linked")


def test_a_socket_on_which_root_listens_is_not_connected_unless_the_row_says_so(
    site: Site, spot: Path
) -> None:
    """As a service's that was moved there, or whose file belongs to the user it serves."""
    port = site.port(spot)
    with listening_as(0, spot):
        os.chown(spot, TENANT, TENANT)
        site.wait_refused(port, "socket-not-trusted")
        key = "external_ids:vhost-user-socket-owner"
        site.host.switch.vsctl("set", "Interface", port, f"{key}=root")
        site.wait_connected(port)
        assert "error" not in site.host.status(port)


def test_only_the_user_that_the_row_names_is_connected(site: Site, spot: Path) -> None:
    key = "external_ids:vhost-user-socket-owner"
    port = site.port(spot, f"{key}={NEIGHBOUR}")
    with listening_as(TENANT, spot):
        site.wait_refused(port, "socket-not-trusted")
        site.host.switch.vsctl("set", "Interface", port, f"{key}=no-such-user")
        site.wait_refused(port, "socket-owner-unknown")
        site.host.switch.vsctl("set", "Interface", port, f"{key}={TENANT}")
        site.wait_connected(port)


def test_no_port_is_connected_to_another_port_nor_to_the_switch(site: Site) -> None:
    """Whatever the row says: not even by root's own links."""
    server = next(_names)
    made = site.host.add_server_port(server)
    site.host.wait_status(server, "listening")
    for number, target in enumerate((made, site.host.directory / "db.sock")):
        link = site.host.directory / f"link{number}"
        link.symlink_to(target)
        site.wait_refused(site.port(link), "socket-foreign")
    # Nor after the daemon that made the socket has gone.
    site.host.stop_daemon()
    site.host.start_daemon()
    for number in (0, 1):
        again = site.host.directory / f"again{number}"
        again.symlink_to(site.host.directory / f"link{number}")
        site.wait_refused(site.port(again), "socket-foreign")
    assert site.host.stats(server)["connections"] == 0


def test_two_rows_with_one_socket_are_one_port_and_an_error(site: Site, spot: Path) -> None:
    first = site.port(spot)
    site.host.wait_ofport(first)
    second = site.port(spot.parent / "." / ".." / spot.parent.name / spot.name)
    site.wait_error(second, "path-in-use")
    site.host.wait_ready(first)
    assert "error" not in site.host.status(first)
    site.host.delete_port(first)
    site.host.wait_ready(second)


def test_a_file_system_that_never_answers_hangs_nobody(
    site: Site, hanging: Path | None, require: Callable[..., None]
) -> None:
    require(hanging is not None, "FUSE")
    assert hanging is not None
    link = site.host.directory / "to-fuse"
    link.symlink_to(hanging / "vm.sock")
    for path in (hanging / "a" / "vm.sock", link, hanging):
        site.wait_refused(site.port(path), "socket-file-system")
    assert site.host.appctl("version")


def test_what_is_closed_of_a_front_end_freezes_nobody(site: Site, spot: Path) -> None:
    """A descriptor in the queue of a connection is closed with it, and this one lingers.

    The VM's user is refused after the daemon has connected, and is quick: its descriptor is there
    before the connection is closed. Where the kernel lets it (before Linux 6.16), somebody else
    closes it. It is a race, whose outcome `test_control_reach.py` has in each order.
    """
    port = site.port(spot, f"external_ids:vhost-user-socket-owner={NEIGHBOUR}")
    reader, writer = os.pipe()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, reader)
        listener = stack.enter_context(listening_as(TENANT, spot))
        lingering = [stack.enter_context(lingering_socket()) for _ in range(8)]

        def attack() -> None:
            accepted = []  # kept open, as the daemon's end counts
            while lingering:
                accepted.append(listener.accept()[0])
                try:
                    socket.send_fds(accepted[-1], [b"x"], [lingering[-1].fileno()])
                    lingering.pop().close()
                    os.write(writer, b"s")
                except PermissionError:
                    os.write(writer, b"r")
                except OSError:
                    pass  # closed already

        stack.enter_context(running_as(TENANT, attack))
        os.close(writer)
        for sock in lingering:
            os.close(sock.detach())
        site.wait_refused(port, "socket-not-trusted")
        for _ in range(40):
            assert site.host.appctl("version")
            if select.select([reader], [], [], 0.5)[0]:
                break
        for _ in range(10):
            assert site.host.appctl("version")


def test_owner_and_mode_are_given_to_our_own_socket_only(tmp_path: Path) -> None:
    """Between bind(2) and what follows, who may write the directory exchanges the socket."""
    precious = tmp_path / "precious"
    precious.touch(mode=0o600)
    directory = _directory(tmp_path / "sockets", TENANT)
    listeners = FrontEndListeners(StateDir.create(tmp_path / "run"), Mounts())
    path = directory / "vhu0"
    held = os.open(directory, os.O_RDONLY)

    def exchange() -> None:
        while True:
            with contextlib.suppress(OSError):
                os.rename("vhu0", "moved", src_dir_fd=held, dst_dir_fd=held)
                os.symlink("../precious", "vhu0", dir_fd=held)

    rounds: dict[str, int] = {"made": 0, "taken": 0}
    with running_as(TENANT, exchange):
        while rounds["made"] < 500:
            try:
                listeners.listen("vhu0", path, Owner(TENANT, TENANT), 0o666).close()
                rounds["made"] += 1
            except ListenError:
                rounds["taken"] += 1  # as it is no socket, it is named so
            path.unlink(missing_ok=True)
            status = precious.stat()
            assert (status.st_uid, status.st_mode & 0o777) == (0, 0o600), rounds
    os.close(held)


def test_what_is_exchanged_meanwhile_is_not_unlinked(tmp_path: Path) -> None:
    listeners: Any = FrontEndListeners(StateDir.create(tmp_path / "run"), Mounts())
    directory = _directory(tmp_path / "sockets", TENANT)
    path = directory / "vhu0"
    with listeners.listen("vhu0", path, Owner(TENANT, TENANT), 0o660):
        path.rename(directory / "moved")
        path.symlink_to(tmp_path / "run")
        listeners.unlink("vhu0")
    assert path.is_symlink() and (directory / "moved").is_socket()
