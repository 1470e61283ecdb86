# SPDX-License-Identifier: Apache-2.0
"""A guest that leaves a port, seen from the bridge: where are its addresses now? Sans-IO.

The worker says for whom it holds frames, the bridge's MAC table says where they are. A worker may
have been taken over by its guest, and a frame that is forwarded does not pass the pipeline again:
so it may only go to an address that was the guest's, by the word of the bridge, which had it on
the port, of the database, or of the hypervisor's SEND_RARP. That also keeps copies of flooded
frames, which were for somebody else, from being sent twice.

Nor shall the switches behind the bridge learn from it that its sender is on this host: they would
send the guest's answers here, where they are lost. So an IP packet goes on in a frame of the host's
own, as from a router; its receiver does not mind the source. Other protocols' may, and stay.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from ovs_vhost_plugin.announce import fdb
from ovs_vhost_plugin.announce.model import Location
from ovs_vhost_plugin.announce.vlan import TPID, PortVlan, dress, tag_of, vlan_of
from ovs_vhost_plugin.announce.wire import LONGEST_FRAME, Output

PACE = ((2.0, 0.005), (4.0, 0.02), (float("inf"), 0.1))
"""Until so many seconds after its begin, the seconds between two looks at the table."""
SETTLINGS = 8
"""Times in a hold that the bridge is made to count; that costs it a look at all its flows."""
MACS = 1024
"""Addresses of a port that are remembered."""

_LOCAL_EXPERIMENTAL = b"\x88\xb5"  # IEEE 802: EtherType for local experiments
_IP = (b"\x08\x00", b"\x86\xdd")  # EtherTypes of IPv4 and IPv6 (RFC 894, RFC 2464)

Parcel = tuple[bytes, int | Output]
"""A frame, and the port (or NORMAL) to which it goes."""


class Departure:
    """What is known of the guest that leaves `port` of the bridge."""

    def __init__(self, now: float) -> None:
        self.held = False  # whether the worker holds frames
        self.stations: tuple[str, ...] = ()
        self.places: dict[str, int] = {}
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
        self._residents: set[tuple[bytes, int]] = set()

    def hold(self, stations: tuple[str, ...], now: float, sighted: int = 0) -> None:
        """Take the worker's word that it holds frames for `stations`.

        sighted: how many frames it got from one of them, which so is somewhere else. The bridge
        that brought them has learned that, or has not looked at them: they met a cached flow.
        """
        if not self.held:
            self.held, self.began, self.look_at = True, now, now
            self.resident = None  # it may have moved since
        if stations and not self.stations:
            self.look_at = now
        if sighted > self._sighted:
            self._sighted, self._looks, self.look_at = sighted, 2, now
        self.stations = stations

    def table(
        self,
        text: str,
        place: Location,
        vlans: Mapping[int, PortVlan],
        macs: Collection[bytes],
        now: float,
    ) -> bool:
        """Take the bridge's MAC table; whether a station was found at a new place.

        macs: addresses that are the guest's for other reasons than that the bridge has them here.
        """
        residents = fdb.on_port(text, place.ofport)
        self.resident = min(residents, default=None)
        if not self._looked:
            self._looked = True
            self._residents |= set(sorted(residents)[:MACS])
        before = dict(self.places)
        self.places, stays = {}, False
        for station in self.stations:
            port = self._place_of(station, text, place, vlans, macs)
            if port == place.ofport:
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

    def settling(
        self, nobody: bytes, place: Location, vlans: Mapping[int, PortVlan]
    ) -> bytes | None:
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
        dressed = dress(frame, vlan, vlans.get(place.ofport, PortVlan()))
        if dressed is not None:
            self._unsettled = False
            self._settlings += 1
        return dressed

    def no_table(self, now: float) -> None:
        """Take it that the table could not be read."""
        # Before the guest leaves is the only time when the bridge can say what was the guest's.
        self.look_at = self._next_look(now) if self.held or not self._looked else None

    def parcels(
        self,
        frames: Iterable[bytes],
        place: Location,
        vlans: Mapping[int, PortVlan],
        own: bytes | None = None,
    ) -> list[Parcel | None]:
        """Address frames that the worker handed over; None for one that may not be forwarded.

        own: the MAC of the host on this bridge, for the source of IP packets.
        """
        return [self._parcel(_sent_by(own, frame), place, vlans) for frame in frames]

    def _parcel(
        self, frame: bytes, place: Location, vlans: Mapping[int, PortVlan]
    ) -> Parcel | None:
        if not 14 <= len(frame) <= LONGEST_FRAME - 4:
            return None
        tag = tag_of(frame)
        port = self.places.get(f"{frame[:6].hex()}.{tag}")
        vlan = vlan_of(tag, vlans.get(place.ofport, PortVlan()))
        if port is None or vlan is None:
            return None
        target = vlans.get(port, PortVlan())
        dressed = dress(frame, vlan, target)
        if dressed is None:
            return None
        # Of a bond's members only one may send, and the switch knows which.
        return dressed, Output.NORMAL if target.bond else port

    def _place_of(
        self,
        station: str,
        text: str,
        place: Location,
        vlans: Mapping[int, PortVlan],
        macs: Collection[bytes],
    ) -> int | None:
        mac, tag = bytes.fromhex(station[:12]), int(station[13:])
        vlan = vlan_of(tag, vlans.get(place.ofport, PortVlan()))
        port = next((e.port for e in fdb.entries_of(text, mac) if e.vlan == vlan), None)
        if not isinstance(port, int) or vlan is None:
            return None  # not learned, or the bridge's own
        if port == place.ofport:
            if len(self._residents) < MACS:
                self._residents.add((mac, vlan))
            return port
        if mac not in macs and (mac, vlan) not in self._residents:
            return None
        return port

    def _next_look(self, now: float) -> float:
        age = now - self.began
        return now + next(seconds for until, seconds in PACE if age < until)


def _sent_by(own: bytes | None, frame: bytes) -> bytes:
    """The frame with our source, if it carries an IP packet (in one VLAN tag at most)."""
    at = 16 if frame[12:14] == TPID else 12
    if own is None or frame[at : at + 2] not in _IP:
        return frame
    return frame[:6] + own + frame[12:]
