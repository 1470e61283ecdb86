# SPDX-License-Identifier: Apache-2.0
"""A host with ports of several kinds, and a guest with numbered frames on each.

Most are software guests, which alone see each frame; some are machines in QEMU (`machine.py`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from support.system.disks import mounted
from support.system.numbered_traffic import NumberedTraffic

from ovs_vhost_plugin.guest.soft import FEATURES, Config, SoftGuest
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost.spec import Feature
from soak.machine import RATE, Machine, Peer

DISK = "32m"
"""Bytes of the disk on which a host has its database, logs and records."""
_QUEUES = "external_ids:vhost-user-queues=1"
_RATE = 100.0  # frames a second, each way, of each port
_KINDS = (
    Config(),
    Config(features=FEATURES | Feature.RING_PACKED.mask),
    Config(indirect=True),
    Config(features=FEATURES | Feature.RING_PACKED.mask | Feature.IN_ORDER.mask),
)


class Port:
    """A port, its guest and their traffic."""

    def __init__(self, host: Host, number: int) -> None:
        self.name = f"soak{number}"
        self._host = host
        self.guest = SoftGuest(_add(host, self.name), _KINDS[number % len(_KINDS)])
        self.guest.start()
        host.wait_carrier(self.name)
        self.traffic = NumberedTraffic(host.namespace, self.name, self.guest, _RATE)

    @property
    def pid(self) -> int:
        """The worker's."""
        return self._host.worker_pid(self.name)

    def wait_for_traffic(self) -> None:
        """Return when frames flow through it, both ways."""
        self.traffic.wait_for_more(20)

    def slow(self, seconds: float) -> None:
        """Let the guest take no frames for a while."""
        self.traffic.slow_until = time.monotonic() + seconds

    def delete(self) -> None:
        """Remove the port; its guest goes on trying."""
        self._host.delete_port(self.name)

    def add(self) -> None:
        """Add the port again."""
        self._host.add_server_port(self.name, _QUEUES)

    def migrate(self, spare: str) -> str:
        """Let the guest migrate to the port `spare`; return the port that it has left."""
        left = self.name
        with self.traffic.outage():
            self.traffic.move(self._host.directory / spare)
        self.name = spare
        return left

    def close(self) -> None:
        """Let the guest go."""
        self.guest.close()


class Site:
    """The host, its ports and machines, and the disk of its files.

    spare  a port without a guest, to which one may migrate
    """

    def __init__(self, host: Host, disk: Path, ports: int) -> None:
        self.host, self.disk = host, disk
        self.ports = [Port(host, number) for number in range(ports)]
        self.machines: list[Machine] = []
        self.spare = f"soak{ports}"
        _add(host, self.spare)

    def add_and_delete(self, times: Iterable[object]) -> None:
        """Let a port come and go for each of `times`; return when nothing is left of the last.

        With its first one the daemon opens what it keeps for others.
        """
        host = self.host
        for _ in times:
            host.add_server_port("loop0")
            host.wait_status("loop0", "listening")
            host.delete_port("loop0")
        wait_until(lambda: not list(host.directory.glob("ovs-vhost/loop0.*")), "the port's end")

    @property
    def served(self) -> list[Port | Machine]:
        """All that has traffic."""
        return [*self.ports, *self.machines]

    def wait_for_traffic(self) -> None:
        """Return when frames flow everywhere, both ways."""
        for one in self.served:
            one.wait_for_traffic()

    def close(self) -> None:
        """Let all guests go."""
        for one in self.served:
            one.close()


@contextmanager
def made(ports: int, machines: int = 0) -> Iterator[Site]:
    """A site with so many ports and machines, whose traffic flows until the end of the block."""
    with ExitStack() as stack:
        top = Path(stack.enter_context(TemporaryDirectory(prefix="ovs-vhost-")))
        stack.enter_context(mounted(top, DISK))
        sockets = Path(stack.enter_context(TemporaryDirectory(prefix="ovs-vhost-")))
        host = stack.enter_context(Host("soak", top / "h"))
        # Each guest's frames are to be seen on its own tap alone, also after a new start of the
        # switch: without a controller, a bridge that fails secure forwards nothing.
        host.switch.vsctl("set-fail-mode", BRIDGE, "secure")
        host.switch.ofctl("del-flows", str(host.directory / f"{BRIDGE}.mgmt"))
        site = Site(host, top, ports)
        stack.callback(site.close)
        if machines:
            peer = Peer(host, stack)
            rate = RATE // machines
            for number in range(machines):
                site.machines.append(Machine(host, peer, number, sockets, rate))
        for one in site.served:
            one.traffic.start()
            stack.callback(_stop, one)
        yield site


def _add(host: Host, name: str) -> Path:
    """Add a port; return its socket, once a guest may come."""
    path = host.add_server_port(name, _QUEUES)
    host.wait_status(name, "listening")
    host.wait_ofport(name)
    return path


def _stop(one: Port | Machine) -> None:
    with contextlib.suppress(Exception):  # the run has ended already, and said why
        one.traffic.stop()
