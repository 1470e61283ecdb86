# SPDX-License-Identifier: Apache-2.0
"""A guest that leaves a port, seen from the bridge: where are its addresses now? Sans-IO.

The worker says for whom it holds frames, the bridge's MAC table says where they are. A worker may
have been taken over by its guest, and a frame that is forwarded does not pass the pipeline again:
so it may only go to an address that was the guest's. That is the word of the database, or of the
bridge, if it had the address on the port before the hold: by the first table that was read after
the worker had said that the guest begins to migrate. What the bridge has learned since does not
count, nor does what a worker or a front-end says. That also keeps copies of flooded frames, which
were for somebody else, from being sent twice.

`forward/onward.py` says of each frame in whose name it goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ovs_vhost_plugin.forward import onward
from ovs_vhost_plugin.forward.onward import Rows, Senders, Unfit
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import StationKey
from ovs_vhost_plugin.net.vlan import PortVlan, ingress_frame
from ovs_vhost_plugin.openflow.wire import Addressed
from ovs_vhost_plugin.vswitchd import fdb

PACE = ((2.0, 0.005), (4.0, 0.02), (float("inf"), 0.1))
"""Until so many seconds after its begin, the seconds between two looks at the table."""
HURRIES = 64
"""Times in a hold that the worker's word makes for looks out of turn."""
SETTLINGS = 8
"""Times in a hold that the bridge is made to count; that costs it a look at all its flows."""
MACS = 1024
"""Addresses of a port that are remembered."""

_LOCAL_EXPERIMENTAL = b"\x88\xb5"  # IEEE 802: EtherType for local experiments


class Departure:
    """What is known of the guest that leaves `port` of the bridge."""

    def __init__(self, now: float) -> None:
        self.held = False  # whether the worker holds frames
        self.stations: tuple[StationKey, ...] = ()
        self.places: dict[StationKey, int] = {}
        """Stations that the bridge has learned on another port: its OpenFlow number."""
        self.look_at: float | None = now
        """When the table is to be read next; None: not before something happens."""
        self.began = now
        self.resident: tuple[bytes, int] | None = None
        """An address and its VLAN that the table last had on the port."""
        self._looked = False
        self._sighted = 0
        self._looks = 0  # to be taken at once, since the last sighting
        self._unsettled = True  # the bridge is to count
        self._settlings = 0
        self._hurries = 0
        self._residents: set[tuple[bytes, int]] = set()
        self._senders = Senders("", {0})

    def hold(self, stations: tuple[StationKey, ...], now: float, sighted: int = 0) -> None:
        """Take the worker's word that it holds frames for `stations`.

        sighted: how many frames it got from one of them, which so is somewhere else. The bridge
        that brought them has learned that, or has not looked at them: they met a cached flow.
        """
        if not self.held:
            self.held, self.began, self.look_at = True, now, now
            self.resident = None  # it may have moved since
        if stations and not self.stations and self._may_hurry():
            self.look_at = now
        if sighted > self._sighted and self._may_hurry():
            self._sighted, self._looks, self.look_at = sighted, 2, now
        self.stations = stations

    def _may_hurry(self) -> bool:
        self._hurries += 1
        return self._hurries <= HURRIES

    def table(self, text: str, place: Location, rows: Rows, now: float) -> bool:
        """Take the bridge's MAC table; whether a station was found at a new place."""
        self._senders = Senders(text, place.numbers)
        self.resident = min(self._senders.here, default=None)
        if not self._looked and not self.held:
            self._looked = True
            own = sorted((mac, vlan) for mac, vlan in self._senders.here if mac not in rows.others)
            self._residents = set(own[:MACS])
        before = dict(self.places)
        self.places, stays = {}, False
        for station in self.stations:
            port = self._place_of(station, text, place, rows)
            if port in place.numbers:
                # Here it is stopped: its last frames, counted late, have moved the entry back.
                port = before.get(station)
                stays = stays or port is None
            if port is not None:
                self.places[station] = port
        self.look_at = self._next_look(now) if self.held and self.stations else None
        self._look_again(now, stays=stays)
        return any(before.get(station) != port for station, port in self.places.items())

    def _look_again(self, now: float, *, stays: bool) -> None:
        """After a sighting: look once more, as this table may be of before; then have it count.

        stays: whether an address is still here, by this table.
        """
        if not stays or not self._looks:
            self._looks = 0
            return
        self._looks -= 1
        if self._looks:
            self.look_at = now
        else:
            self._unsettled = True

    def settling(self, nobody: bytes, place: Location) -> bytes | None:
        """A frame that makes the bridge count what its flows have passed so far, None if none does.

        It counts a flow's frames some time after they passed, and learns their source from them
        only then. A change of its MAC table makes it count at once: so it is to learn `nobody`, an
        address that is in no use, from a frame to one that it has on the same port, which
        therefore goes nowhere. That is due when a hold begins, and when the guest was sighted
        elsewhere and the table does not show it.
        """
        due = self._unsettled and self._settlings < SETTLINGS
        if not due or not self.held or self.resident is None:
            return None
        mac, vlan = self.resident
        frame = mac + nobody + _LOCAL_EXPERIMENTAL + bytes(46)
        entering = ingress_frame(frame, vlan, place.vlan)
        if entering is not None:
            self._unsettled = False
            self._settlings += 1
        return entering

    def no_table(self, now: float) -> None:
        """Take it that the table could not be read."""
        # Before the guest leaves is the only time when the bridge can say what was the guest's.
        self.look_at = self._next_look(now) if self.held or not self._looked else None

    def parcels(
        self,
        frames: Iterable[bytes],
        place: Location,
        vlans: Mapping[int, PortVlan],
        rows: Rows,
    ) -> list[Addressed | Unfit]:
        """Address frames that the worker handed over; a name for one that may not be forwarded."""
        return [
            onward.address(frame, self.places, self._senders, place, vlans, rows)
            for frame in frames
        ]

    def _place_of(self, station: StationKey, text: str, place: Location, rows: Rows) -> int | None:
        mac, tag = station
        vlan = place.vlan.egress_vlan_of(tag)
        port = next((e.port for e in fdb.entries_of(text, mac) if e.vlan == vlan), None)
        if not isinstance(port, int) or vlan is None:
            return None  # not learned, or the bridge's own
        guests = (mac, vlan) in self._residents or place.gives(rows.given, mac, vlan)
        return port if guests else None

    def _next_look(self, now: float) -> float:
        age = now - self.began
        return now + next(seconds for until, seconds in PACE if age < until)
