# SPDX-License-Identifier: Apache-2.0
"""A host with ports of several kinds, and a guest with numbered frames on each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ovs_vhost_plugin.guest.soft import FEATURES, Config, SoftGuest
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.process import run, wait_until
from ovs_vhost_plugin.vhost.spec import Feature
from soak.numbered import NumberedTraffic

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

    @property
    def came(self) -> tuple[int, int]:
        """Frames that have come so far, each way."""
        ways = (self.traffic.inward, self.traffic.outward)
        inward, outward = (way.came.total() for way in ways)
        return inward, outward

    def wait_for_traffic(self, count: int = 20) -> None:
        """Return when so many more frames have come each way."""
        had = self.came

        def more() -> bool:
            return not self.traffic.running or all(
                now >= before + count for now, before in zip(self.came, had, strict=True)
            )

        wait_until(more, f"{self.name}: {count} more frames each way")

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
        top = stack.enter_context(TemporaryDirectory(prefix="ovs-vhost-"))
        run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", top])
        stack.callback(run, ["umount", "--lazy", top])
        host = stack.enter_context(Host("soak", Path(top, "h")))
        # Each guest's frames are to be seen on its own tap alone, also after a new start of the
        # switch: without a controller, a bridge that fails secure forwards nothing.
        host.switch.vsctl("set-fail-mode", BRIDGE, "secure")
        host.switch.ofctl("del-flows", str(host.directory / f"{BRIDGE}.mgmt"))
        site = Site(host, Path(top), ports)
        stack.callback(site.close)
        for port in site.ports:
            port.traffic.start()
            stack.callback(_stop, port)
        yield site


def _stop(port: Port) -> None:
    with contextlib.suppress(Exception):  # the run has ended already, and said why
        port.traffic.stop()
