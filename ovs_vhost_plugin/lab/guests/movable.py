# SPDX-License-Identifier: Apache-2.0
"""The interface of a guest that can migrate: a machine in QEMU, or the software guest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ovs_vhost_plugin.lab.hosts.host import Host


@dataclass(frozen=True)
class Move:
    """A finished migration; times are CLOCK_MONOTONIC seconds.

    `downtime_ms` and `total_ms` are the hypervisor's own figures.
    """

    started: float
    source_stopped: float
    destination_resumed: float
    completed: float
    downtime_ms: float
    total_ms: float


class Movable(Protocol):
    """A guest with one NIC that listens on vhost-user sockets, and can live-migrate."""

    @property
    def mac(self) -> str:
        """The NIC's MAC."""

    @property
    def address(self) -> str:
        """The guest's IPv4 address."""

    def boot(self, host: Host, socket: Path) -> None:
        """Start on `host`; returns when the guest takes traffic."""

    def listen(self, port: int) -> None:
        """Begin to keep data that comes to a UDP port; earlier data is dropped."""

    def speak(self) -> None:
        """Send one broadcast frame, from which the network learns the guest's place."""

    def prepare(self, host: Host, socket: Path) -> None:
        """Start the destination on `host`, which waits for the guest."""

    def migrate(self) -> Move:
        """Migrate; return when the guest runs at the destination."""

    def received_size(self) -> int:
        """The length of `received`, in bytes."""

    def unread(self) -> int:
        """How much has come to the UDP port and is not in `received` yet; 0: nothing."""

    def received(self) -> bytes:
        """The payloads that came to the UDP port, one after the other."""

    def close(self) -> None:
        """End the guest on whichever host it is."""
