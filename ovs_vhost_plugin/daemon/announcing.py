# SPDX-License-Identifier: Apache-2.0
"""What the daemon has announced: requests in, results to log, rows and whoever asked."""

from collections.abc import Callable
from typing import Any

import netaddr
import ovs.vlog

from ovs_vhost_plugin.announce.model import Location, Result
from ovs_vhost_plugin.announce.service import AnnounceService
from ovs_vhost_plugin.daemon.ovsdb import Snapshot
from ovs_vhost_plugin.daemon.reports import Rarp
from ovs_vhost_plugin.daemon.rows import PortSpec
from ovs_vhost_plugin.daemon.workers import Event, Heard

vlog = ovs.vlog.Vlog("vhost_announce")

Waiter = Callable[[Result], None]


class Announcing:
    """The announce service of the switch, whichever run directory its row names."""

    def __init__(self) -> None:
        self.announced: dict[str, str] = {}
        self._macs: dict[str, bytes] = {}
        self._service: AnnounceService | None = None
        self._rundir = ""
        self._locations: dict[str, Location] = {}
        self._waiters: list[tuple[str, bytes, Waiter]] = []

    def locate(self, snapshot: Snapshot) -> None:
        """Take where the ports are now."""
        rundir = snapshot.switch.rundir
        if self._service is None or rundir != self._rundir:
            if self._service is not None:
                self._service.close()
            self._service, self._rundir, self._locations = AnnounceService(rundir), rundir, {}
        locations = {name: location_of(port, rundir) for name, port in snapshot.ports.items()}
        if locations != self._locations:
            self._locations = locations
            self._service.set_locations(locations)
        for known in (self.announced, self._macs):
            for name in known.keys() - locations.keys():
                del known[name]

    def take(self, events: list[Event], now: float) -> None:
        """Ask for what the front-ends' SEND_RARP ask for."""
        for event in events:
            match event:
                case Heard(name, Rarp(mac, at)):
                    self._macs[name] = mac
                    if self._service is not None:
                        self._service.request(name, mac, "send-rarp", now, at)

    def mac_of(self, port: PortSpec) -> bytes | None:
        """The guest's MAC: as its front-end said last, else as the row's attached-mac says."""
        if port.name in self._macs:
            return self._macs[port.name]
        return parse_mac(port.attached_mac)

    def request(self, name: str, mac: bytes, now: float, waiter: Waiter) -> None:
        """Announce by hand; `waiter` is called with the result."""
        assert self._service is not None
        self._waiters.append((name, mac, waiter))
        self._service.request(name, mac, "manual", now)
        self.run(now)

    def run(self, now: float) -> None:
        """Do what can be done at once, pass on what came of it."""
        if self._service is None:
            return
        self._service.run(now)
        for result in self._service.take_results():
            summary = result.summary()
            vlog.info(f"{result.port}: announced {summary}")
            self.announced[result.port] = summary
            answered = [w for w in self._waiters if w[:2] == (result.port, result.mac)]
            self._waiters = [w for w in self._waiters if w not in answered]
            for _, _, waiter in answered:
                waiter(result)

    def wait(self, poller: Any) -> None:
        """Register what `run` has to be called for."""
        if self._service is not None:
            self._service.wait(poller)

    def counters(self) -> dict[str, int]:
        """The service's totals."""
        return {} if self._service is None else self._service.counters()

    def history(self) -> list[dict[str, str | int | float | None]]:
        """The last announcements that ended, oldest first."""
        return [] if self._service is None else self._service.history()

    def close(self) -> None:
        """Leave the bridges."""
        if self._service is not None:
            self._service.close()
            self._service = None


def parse_mac(text: str) -> bytes | None:
    """Six bytes of any usual spelling, None if it is none."""
    if not netaddr.valid_mac(text):
        return None
    packed: bytes = netaddr.EUI(text, version=48).packed
    return packed


def location_of(port: PortSpec, rundir: str) -> Location:
    """Where a port sits in the switch whose run directory is `rundir`."""
    return Location(port.bridge, port.ofport or -1, port.tag, f"{rundir}/{port.bridge}.mgmt")
