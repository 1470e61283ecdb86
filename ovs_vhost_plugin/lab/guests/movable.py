# SPDX-License-Identifier: Apache-2.0
"""What the demo asks of a guest that can move: a machine in QEMU and the software guest alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ovs_vhost_plugin.lab.hosts.host import Host


@dataclass(frozen=True)
class Move:
    """A finished migration; times are CLOCK_MONOTONIC seconds.

    `downtime_ms` and `total_ms` are the mover's own figures.
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
        """Begin to keep what comes to a UDP port, anew."""

    def speak(self) -> None:
        """Send one broadcast frame, so that the network knows where the guest is."""

    def prepare(self, host: Host, socket: Path) -> None:
        """Start the destination on `host`, which waits for the guest."""

    def migrate(self) -> Move:
        """Move, and return when the guest runs at the destination."""

    def received_size(self) -> int:
        """How many bytes `received` would have."""

    def received(self) -> bytes:
        """What came to the UDP port, payload after payload."""

    def close(self) -> None:
        """End it wherever it is."""
