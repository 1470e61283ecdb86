# SPDX-License-Identifier: Apache-2.0
"""When a bridge learned where a MAC is: its MAC table, asked again and again.

ovs-vswitchd tells nobody that it learned something, so this asks it over its control socket, on
a kept connection, every few milliseconds; what it reports is late by at most that.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType

from ovs.unixctl.client import UnixctlClient

from ovs_vhost_plugin.announce import fdb
from ovs_vhost_plugin.lab.process import LabError
from ovs_vhost_plugin.lab.switch import PrivateSwitch

_INTERVAL_SECONDS = 0.002


@dataclass(frozen=True)
class Move:
    """The bridge's answer changed at `at` (CLOCK_MONOTONIC seconds) to this port, None for none."""

    at: float
    port: str | None


class MacWatch:
    """Follows one MAC of a VLAN in one bridge's table from the start of the context."""

    def __init__(self, switch: PrivateSwitch, bridge: str, mac: str, vlan: int = 0) -> None:
        self.moves: list[Move] = []
        self._bridge = bridge
        self._mac = bytes.fromhex(mac.replace(":", ""))
        self._vlan = vlan
        pid = (switch.directory / "ovs-vswitchd.pid").read_text().strip()
        self._path = str(switch.directory / f"ovs-vswitchd.{pid}.ctl")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="macwatch", daemon=True)
        self._failure: str | None = None

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

    def learned_at(self, *ports: int, since: float = 0.0) -> float | None:
        """When the MAC was first seen on one of `ports` at or after `since`, None if it was not."""
        if self._failure:
            raise LabError(f"watching {self._bridge}: {self._failure}")
        names = {str(port) for port in ports}
        arrivals = (move.at for move in self.moves if move.port in names and move.at >= since)
        return next(arrivals, None)

    def _follow(self) -> None:
        error, client = UnixctlClient.create(self._path)
        if error:
            self._failure = f"no connection to {self._path}: error {error}"
            return
        try:
            while not self._stop.wait(_INTERVAL_SECONDS):
                _, refusal, text = client.transact("fdb/show", [self._bridge])
                at = time.monotonic()
                if text is None:
                    self._failure = refusal or "ovs-vswitchd is gone"
                    return
                entries = fdb.entries_of(text, self._mac)
                port = next((str(e.port) for e in entries if e.vlan == self._vlan), None)
                if not self.moves or self.moves[-1].port != port:
                    self.moves.append(Move(at, port))
        finally:
            client.close()
