# SPDX-License-Identifier: Apache-2.0
"""Ports whose worker is a puppet (`fake_worker`): a test says as its front-end what it reports."""

import json
import select
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.control.announce_bridge import Tap

from ovs_vhost_plugin.ipc import commands, reports
from ovs_vhost_plugin.ipc.commands import Command, Release
from ovs_vhost_plugin.ipc.reports import (
    GuestStations,
    HeldFrames,
    HoldState,
    PortState,
    Rarp,
    Report,
    Started,
)
from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.lab.process import PATIENCE, wait_until
from ovs_vhost_plugin.net.station import Station, StationKey

PORT = "puppet0"
MAC = bytes.fromhex("525400123456")
GUEST_ANNOUNCE = 1 << 21
LOG_ALL = 1 << 26


class FrontEnd:
    """Pulls the strings of a port's puppet."""

    def __init__(self, host: Any, port: str, path: Path) -> None:
        self._host, self._port = host, port
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(PATIENCE)
        self._sock.connect(str(path))
        self._orders = b""
        host.wait_status(port, "connected")

    def tell(self, **order: Any) -> None:
        self._sock.sendall(json.dumps(order).encode() + b"\n")

    def report(self, report: Report) -> None:
        """Have the worker report that."""
        self.tell(**reports.encode(report))

    def status(self, status: str, features: int = GUEST_ANNOUNCE) -> None:
        self.report(PortState(status, "", f"0x{features:016x}", "0x7", 2, (256, 256)))

    def move_in(self, base: int = 700) -> None:
        """As a guest does that a migration brings."""
        self.report(Started(base))
        self.status("running")
        self._host.wait_status(self._port, "running")

    def send_rarp(self, mac: bytes) -> None:
        """As the front-end's SEND_RARP."""
        self.report(Rarp(mac, time.monotonic()))

    def learned(self, *macs: bytes) -> None:
        """As what the guest's own frames have shown."""
        self.report(GuestStations(tuple(Station(mac, 0, (bytes([192, 0, 2, 1]),)) for mac in macs)))

    def hold(self, *macs: bytes, number: int = 1, active: bool = True) -> None:
        """As a worker that holds frames for these."""
        self.report(HoldState(number, active, tuple(StationKey(mac, 0) for mac in macs), {}))

    def transmit(self, *frames: bytes) -> None:
        """Send frames into the bridge, as the guest."""
        self.tell(transmit=[frame.hex() for frame in frames])

    def order(self, seconds: float = PATIENCE) -> Command | None:
        """The next command of the daemon's that has to do with a hold; None: none in that time."""
        while b"\n" not in self._orders:
            if not select.select([self._sock], [], [], seconds)[0]:
                return None
            self._orders += self._sock.recv(65536)
        line, _, self._orders = self._orders.partition(b"\n")
        return commands.decode(json.loads(line), ())

    def hand_over(self, order: Release, frames: Sequence[bytes], *, left: bool = True) -> None:
        """Answer with these frames."""
        self.report(HeldFrames(order.id, tuple(frames), left))

    def close(self) -> None:
        self._sock.close()


class Peer:
    """Another port of the bridge, and all that it is sent."""

    def __init__(self, host: Any, bridge: str = BRIDGE) -> None:
        self._tap = Tap(host.namespace, f"peer-{bridge}")
        host.switch.add_port(bridge, f"peer-{bridge}")
        wait_until(lambda: host.switch.ofport(f"peer-{bridge}"), "the peer's port")
        self._seen: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self._tap.send(frame)

    def received(self) -> list[bytes]:
        """All frames so far."""
        self._seen += self._tap.frames()
        return self._seen

    def seen(self, mac: bytes = MAC) -> list[bytes]:
        return [frame for frame in self.received() if frame[6:12] == mac]


def announcements(host: Any, port: str = PORT) -> list[dict[str, Any]]:
    """The announcements of a port that have ended."""
    shown = json.loads(host.appctl("vhost/announce-log", port, "--format", "json"))
    return shown["announcements"]


def wait_log(host: Any, count: int, port: str = PORT) -> list[dict[str, Any]]:
    return wait_until(
        lambda: (found := announcements(host, port)) and len(found) >= count and found,
        f"{count} results",
    )
