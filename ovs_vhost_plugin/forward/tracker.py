# SPDX-License-Identifier: Apache-2.0
"""Finds where the addresses of a guest that leaves a port are now, by the bridge's word. Sans-IO.

The worker says for whom it holds frames, the bridge's MAC table says where they are. A worker may
have been taken over by its guest, and a frame that is forwarded does not pass the pipeline again.
So a frame may only go to an address that was the guest's: by the database, or by the bridge, if it
had the address on the port before the hold. For that the first table counts that was asked for
after the worker had said that the guest begins to migrate, and before the hold; a busy switch may
answer when frames are held already. What the bridge has learned since does not count, nor does what
a worker or a front-end says. This also keeps copies of flooded frames, which were for somebody
else, from being sent twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ovs_vhost_plugin.forward.rewrite import Rows, Senders, Unfit, rewrite
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import StationKey
from ovs_vhost_plugin.net.vlan import PortVlan, ingress_frame
from ovs_vhost_plugin.openflow.wire import Addressed
from ovs_vhost_plugin.vswitchd import fdb

PACE = ((2.0, 0.005), (4.0, 0.02), (float("inf"), 0.1))
"""Until so many seconds after the begin of a hold, the seconds between two looks at the table."""
HURRIES = 64
"""Looks out of turn in a hold that the worker's word causes."""
FLUSHES = 8
"""Times in a hold that the bridge is made to count; that costs it a look at all its flows."""
MACS = 1024
"""Addresses of a port that are remembered."""

_LOCAL_EXPERIMENTAL = b"\x88\xb5"  # IEEE 802: EtherType for local experiments


class MacTracker:
    """The addresses of the guest that leaves one port of a bridge. Times are told.

    held       whether the worker holds frames
    stations   those for which it holds frames
    new_ports  the OpenFlow number of the port where the bridge has a station now
    began      when the hold began, or the migration while there is no hold yet
    """

    def __init__(self, now: float) -> None:
        self.held = False
        self.stations: tuple[StationKey, ...] = ()
        self.new_ports: dict[StationKey, int] = {}
        self.began = now
        self._look_at: float | None = now
        self._macs_seen_here: set[tuple[bytes, int]] = set()  # before the hold, with their VLANs
        self._on_port: tuple[bytes, int] | None = None  # one that the last table has here
        self._looked = False
        self._asked_before = False  # the hold, for the table that comes next
        self._sighted = 0
        self._looks = 0  # to be taken at once, since the last sighting
        self._flush_due = True
        self._flushes = 0
        self._hurries = 0
        self._senders = Senders("", {0})

    def get_timer(self) -> float | None:
        """When the table is to be read next; None: not before something happens."""
        return self._look_at

    def rest(self) -> None:
        """Read the table no more."""
        self._look_at = None

    def hold(self, stations: tuple[StationKey, ...], now: float, sighted: int = 0) -> None:
        """Take the worker's word that it holds frames for `stations`.

        sighted: how many frames came to the port from one of them, which so is somewhere else. The
        bridge that brought them has learned that, or did not look: they met a cached flow.
        """
        if not self.held:
            self.held, self.began, self._look_at = True, now, now
            self._on_port = None  # it may have moved since
        if stations and not self.stations and self._may_hurry():
            self._look_at = now
        if sighted > self._sighted and self._may_hurry():
            self._sighted, self._looks, self._look_at = sighted, 2, now
        self.stations = stations

    def ask(self) -> None:
        """Note that the table is asked for now."""
        self._asked_before = not self.held

    def table(self, text: str, place: Location, rows: Rows, now: float) -> bool:
        """Take the bridge's MAC table; whether a station was found on a new port."""
        self._senders = Senders(text, place.numbers)
        self._on_port = min(self._senders.here, default=None)
        if not self._looked and (self._asked_before or not self.held):
            self._looked = True
            own = sorted((mac, vlan) for mac, vlan in self._senders.here if mac not in rows.others)
            self._macs_seen_here = set(own[:MACS])
        before = self.new_ports
        self.new_ports, stays = {}, False
        for station in self.stations:
            port = self._port_of(station, text, place, rows)
            if port in place.numbers:
                # It is stopped here: its last frames, counted late, have moved the entry back.
                port = before.get(station)
                stays = stays or port is None
            if port is not None:
                self.new_ports[station] = port
        self._look_at = self._next_look(now) if self.held and self.stations else None
        self._look_again(now, stays=stays)
        return any(before.get(station) != port for station, port in self.new_ports.items())

    def no_table(self, now: float) -> None:
        """Note that the table could not be read."""
        self._asked_before = False
        # Before the guest leaves is the only time when the bridge can say what was the guest's.
        self._look_at = self._next_look(now) if self.held or not self._looked else None

    def flush_frame(self, nobody: bytes, place: Location) -> bytes | None:
        """A frame that makes the bridge count what its flows have passed so far; None if not due.

        The bridge counts a flow's frames some time after they passed, and learns their source from
        them only then. A change of its MAC table makes it count at once. So it is to learn
        `nobody`, an address that is in no use, from a frame to an address that it has on the same
        port, which therefore goes nowhere. That is due when a hold begins, and when the guest was
        sighted elsewhere and the table does not show it.
        """
        due = self._flush_due and self._flushes < FLUSHES
        if not due or not self.held or self._on_port is None:
            return None
        mac, vlan = self._on_port
        frame = ingress_frame(mac + nobody + _LOCAL_EXPERIMENTAL + bytes(46), vlan, place.vlan)
        if frame is not None:
            self._flush_due = False
            self._flushes += 1
        return frame

    def rewrite(
        self,
        frames: Iterable[bytes],
        place: Location,
        vlans: Mapping[int, PortVlan],
        rows: Rows,
    ) -> list[Addressed | Unfit]:
        """The frames as they go on, in order; a reason in place of one that may not."""
        return [
            rewrite(frame, self.new_ports, self._senders, place, vlans, rows) for frame in frames
        ]

    def _port_of(self, station: StationKey, text: str, place: Location, rows: Rows) -> int | None:
        """The port on which a table has a station of the guest's; None: not known, or not its."""
        mac, tag = station
        vlan = place.vlan.egress_vlan_of(tag)
        port = next((e.port for e in fdb.entries_of(text, mac) if e.vlan == vlan), None)
        if not isinstance(port, int) or vlan is None:
            return None  # not learned, or the bridge's own
        guests = (mac, vlan) in self._macs_seen_here or place.gives(rows.given, mac, vlan)
        return port if guests else None

    def _look_again(self, now: float, *, stays: bool) -> None:
        """After a sighting look once more, as this table may be older; then have the bridge count.

        stays: whether an address is still here, by this table.
        """
        if not stays or not self._looks:
            self._looks = 0
            return
        self._looks -= 1
        if self._looks:
            self._look_at = now
        else:
            self._flush_due = True

    def _may_hurry(self) -> bool:
        self._hurries += 1
        return self._hurries <= HURRIES

    def _next_look(self, now: float) -> float:
        age = now - self.began
        return now + next(seconds for until, seconds in PACE if age < until)
