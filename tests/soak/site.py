# SPDX-License-Identifier: Apache-2.0
"""A host with ports of several kinds, and a guest with numbered frames on each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from support.system.disks import mounted
from support.system.numbered_traffic import NumberedTraffic

from ovs_vhost_plugin.guest.soft import FEATURES, Config, SoftGuest
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.vhost.spec import Feature

DISK = "32m"
"""Bytes of the disk on which a host has its database, logs and records."""
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
        self.path = host.add_server_port(self.name, "external_ids:vhost-user-queues=1")
        host.wait_status(self.name, "listening")
        host.wait_ofport(self.name)
        self.guest = SoftGuest(self.path, _KINDS[number % len(_KINDS)])
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

    def delete(self) -> None:
        """Remove the port; its guest goes on trying."""
        self._host.delete_port(self.name)

    def add(self) -> None:
        """Add the port again."""
        self._host.add_server_port(self.name, "external_ids:vhost-user-queues=1")

    def close(self) -> None:
        """Let the guest go."""
        self.guest.close()


class Site:
    """The host, its ports and the disk of its files."""

    def __init__(self, host: Host, disk: Path, count: int) -> None:
        self.host, self.disk = host, disk
        self.ports = [Port(host, number) for number in range(count)]

    def wait_for_traffic(self) -> None:
        """Return when frames flow through all ports, both ways."""
        for port in self.ports:
            port.wait_for_traffic()

    def close(self) -> None:
        """Let all guests go."""
        for port in self.ports:
            port.close()


@contextmanager
def made(ports: int) -> Iterator[Site]:
    """A site with so many ports, whose traffic flows until the end of the block."""
    with ExitStack() as stack:
        top = Path(stack.enter_context(TemporaryDirectory(prefix="ovs-vhost-")))
        stack.enter_context(mounted(top, DISK))
        host = stack.enter_context(Host("soak", top / "h"))
        # Each guest's frames are to be seen on its own tap alone, also after a new start of the
        # switch: without a controller, a bridge that fails secure forwards nothing.
        host.switch.vsctl("set-fail-mode", BRIDGE, "secure")
        host.switch.ofctl("del-flows", str(host.directory / f"{BRIDGE}.mgmt"))
        site = Site(host, top, ports)
        stack.callback(site.close)
        for port in site.ports:
            port.traffic.start()
            stack.callback(_stop, port)
        yield site


def _stop(port: Port) -> None:
    with contextlib.suppress(Exception):  # the run has ended already, and said why
        port.traffic.stop()
