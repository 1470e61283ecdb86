# SPDX-License-Identifier: Apache-2.0
"""Observes when a bridge learns a MAC, by asking for its MAC table again and again.

ovs-vswitchd does not report what it learns, so this asks it over its control socket, on a kept
connection, every few milliseconds; reported times are late by at most that.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType

from ovs.unixctl.client import UnixctlClient

from ovs_vhost_plugin.lab.hosts.switch import PrivateSwitch
from ovs_vhost_plugin.lab.process import LabError
from ovs_vhost_plugin.vswitchd import fdb

_INTERVAL_SECONDS = 0.002


@dataclass(frozen=True)
class MacMove:
    """A change of the bridge's answer, at `at` (CLOCK_MONOTONIC seconds), to this port or None."""

    at: float
    port: str | None


class MacTable:
    """A bridge's MAC table, asked over a kept connection.  Raises LabError without an answer."""

    def __init__(self, switch: PrivateSwitch, bridge: str) -> None:
        self._bridge = bridge
        pid = (switch.directory / "ovs-vswitchd.pid").read_text().strip()
        path = str(switch.directory / f"ovs-vswitchd.{pid}.ctl")
        error, self._client = UnixctlClient.create(path)
        if error:
            raise LabError(f"no connection to {path}: error {error}")

    def port_of(self, mac: str, vlan: int = 0) -> str | None:
        """The port that the bridge shows for the MAC, or None."""
        _, refusal, text = self._client.transact("fdb/show", [self._bridge])
        if text is None:
            raise LabError(f"asking {self._bridge}: {refusal or 'ovs-vswitchd is gone'}")
        entries = fdb.entries_of(text, bytes.fromhex(mac.replace(":", "")))
        return next((str(entry.port) for entry in entries if entry.vlan == vlan), None)

    def close(self) -> None:
        """Drop the connection."""
        self._client.close()


class MacWatch:
    """Follows one MAC of a VLAN in one bridge's table from the start of the context."""

    def __init__(self, switch: PrivateSwitch, bridge: str, mac: str, vlan: int = 0) -> None:
        self.moves: list[MacMove] = []
        self._table = MacTable(switch, bridge)
        self._mac, self._vlan = mac, vlan
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="macwatch", daemon=True)
        self._failure: LabError | None = None

    def __enter__(self) -> MacWatch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._table.close()

    def learned_at(self, *ports: int, since: float = 0.0) -> float | None:
        """The first time, from `since` on, at which the MAC was seen on one of `ports`, or None."""
        if self._failure:
            raise self._failure
        names = {str(port) for port in ports}
        arrivals = (move.at for move in self.moves if move.port in names and move.at >= since)
        return next(arrivals, None)

    def _follow(self) -> None:
        try:
            while not self._stop.wait(_INTERVAL_SECONDS):
                port = self._table.port_of(self._mac, self._vlan)
                at = time.monotonic()
                if not self.moves or self.moves[-1].port != port:
                    self.moves.append(MacMove(at, port))
        except LabError as failure:
            self._failure = failure
