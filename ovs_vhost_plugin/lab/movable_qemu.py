# SPDX-License-Identifier: Apache-2.0
"""A Linux guest in QEMU as the demo's subject."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ovs_vhost_plugin.lab import image
from ovs_vhost_plugin.lab.fabric import CLIENT_ADDRESS, CLIENT_MAC
from ovs_vhost_plugin.lab.flow import GuestReceiver
from ovs_vhost_plugin.lab.host import Host
from ovs_vhost_plugin.lab.movable import Migration
from ovs_vhost_plugin.lab.process import LabError
from ovs_vhost_plugin.lab.qemu import GuestConfig, QemuGuest, VhostUser

MAC = "52:54:00:00:00:01"
ADDRESS = "10.0.0.2"


class QemuMovable:
    """A guest that says nothing of its own accord, unless it announces itself."""

    def __init__(self, *, announces: bool) -> None:
        self.mac = MAC
        self.address = ADDRESS
        self._config = GuestConfig(
            mac=MAC,
            address=f"{ADDRESS}/24",
            neighbours={CLIENT_ADDRESS: CLIENT_MAC},
            device={"guest_announce": "on" if announces else "off"},
        )
        self._closing = contextlib.ExitStack()
        self._here: QemuGuest | None = None
        self._there: QemuGuest | None = None
        self._receiver: GuestReceiver | None = None

    def boot(self, host: Host, socket: Path) -> None:
        """Start QEMU and await the guest's init."""
        self._here = self._guest(host, socket, incoming=False)

    def listen(self, port: int) -> None:
        """Keep what comes to a UDP port in a file of the guest's."""
        self._receiver = GuestReceiver(self._running(), port)

    def speak(self) -> None:
        """An ARP request for the client."""
        self._running().run(f"arping -q -c 1 -I eth0 {CLIENT_ADDRESS}")

    def prepare(self, host: Host, socket: Path) -> None:
        """Start the destination's QEMU."""
        self._there = self._guest(host, socket, incoming=True)

    def migrate(self) -> Migration:
        """QEMU's live migration."""
        if self._there is None:
            raise LabError("there is no destination")
        source, self._here = self._running(), self._there
        return source.migrate(self._here)

    def received(self) -> bytes:
        """The receiver's file."""
        if self._receiver is None:
            raise LabError("the guest does not listen")
        return self._receiver.fetch(self._running())

    def close(self) -> None:
        """End both QEMUs."""
        self._closing.close()

    def _guest(self, host: Host, socket: Path, *, incoming: bool) -> QemuGuest:
        return self._closing.enter_context(
            QemuGuest(
                host.namespace,
                host.directory / "guest",
                image.build(),
                VhostUser(socket),
                self._config,
                incoming=incoming,
            )
        )

    def _running(self) -> QemuGuest:
        if self._here is None:
            raise LabError("the guest is not running")
        return self._here
