# SPDX-License-Identifier: Apache-2.0
"""The tables that the queue pairs learn, read while they are written, and merged into one.

A station is a MAC in a VLAN. If several stations of a VLAN claimed an address, the address belongs
to the station that used it last.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address

from ovs_vhost_plugin.jit.layout import ADDRESSES, STATIONS, Learned
from ovs_vhost_plugin.jit.net.learn import AGE
from ovs_vhost_plugin.net.station import Station, StationKey

Ip = IPv4Address | IPv6Address

_HALF = (1 << 64) - 1
_MAC = (1 << 48) - 1


@dataclass(slots=True)
class LearnedStation:
    """A MAC in a VLAN (0: untagged) and the time it was last seen, in ms of CLOCK_MONOTONIC."""

    mac: bytes
    vlan: int
    seen: int
    router: bool = False
    addresses: dict[Ip, int] = field(default_factory=dict)
    claims: dict[Ip, int] = field(default_factory=dict, compare=False)
    """The time of the last claim to an address, by ARP or neighbour discovery."""

    @property
    def key(self) -> StationKey:
        """The station's MAC and VLAN."""
        return StationKey(self.mac, self.vlan)

    def claimed(self, ip: Ip) -> int:
        """The time of the last claim; for an address that came with the guest, of its last use."""
        return self.claims.get(ip, self.addresses[ip])

    def told(self) -> Station:
        """The station as reported to the daemon: without times, which change with every frame."""
        return Station(
            self.mac,
            self.vlan,
            tuple(sorted(ip.packed for ip in self.addresses if ip.version == 4)),
            tuple(sorted(ip.packed for ip in self.addresses if ip.version == 6)),
            self.router,
        )


def read(learned: Learned, now: int) -> list[LearnedStation]:
    """The stations of a table that have not aged at `now`.

    A row that changes meanwhile is left out: its change causes another look.
    """
    before = learned.stations["version"].copy()
    rows, addresses = learned.stations.copy(), learned.addresses.copy()
    steady = (before == learned.stations["version"]) & (before % 2 == 0)
    live = steady & (rows["seen"] > 0) & (now - rows["seen"] <= AGE)
    found = []
    for at in live.nonzero()[0]:
        row = rows[at]
        key = int(row["key"])
        mac = (key & _MAC).to_bytes(6, "big")
        one = LearnedStation(mac, key >> 48, int(row["seen"]), bool(row["router"]))
        for entry in addresses[at * ADDRESSES : (at + 1) * ADDRESSES]:
            seen = int(entry["seen"])
            if seen and now - seen <= AGE:
                ip = ip_of(int(entry["high"]), int(entry["low"]))
                one.addresses[ip] = seen
                one.claims[ip] = int(entry["claimed"])
        found.append(one)
    return found


def merge(tables: Iterable[list[LearnedStation]]) -> list[LearnedStation]:
    """The tables of all queue pairs as one table that is no larger, in a stable order."""
    merged: dict[StationKey, LearnedStation] = {}
    for one in (station for table in tables for station in table):
        had = merged.setdefault(one.key, one)
        had.seen = max(had.seen, one.seen)
        had.router |= one.router
        for ip, seen in one.addresses.items():
            claimed = max(one.claimed(ip), had.claimed(ip) if ip in had.addresses else 0)
            had.addresses[ip] = max(seen, had.addresses.get(ip, 0))
            had.claims[ip] = claimed
    newest = sorted(merged.values(), key=lambda one: -one.seen)[:STATIONS]
    _settle(newest)
    return sorted(newest, key=lambda one: one.key)


def unaged(stations: Iterable[LearnedStation], now: int) -> list[LearnedStation]:
    """Copies of the `stations` and addresses that have not aged at `now`."""
    return [
        replace(one, addresses={ip: at for ip, at in one.addresses.items() if now - at <= AGE})
        for one in stations
        if now - one.seen <= AGE
    ]


def expiry(stations: Iterable[LearnedStation]) -> int | None:
    """The first ms at which a station or address has aged, unless it is seen again."""
    times = [seen for one in stations for seen in (one.seen, *one.addresses.values())]
    return min(times) + AGE + 1 if times else None


def _settle(stations: list[LearnedStation]) -> None:
    """Leave each address of a VLAN to one station, and each station its newest addresses."""
    claims = [(seen, one.vlan, ip, one) for one in stations for ip, seen in one.addresses.items()]
    claims.sort(key=lambda claim: -claim[0])
    for one in stations:
        one.addresses = {}
    taken = set()
    for seen, vlan, ip, one in claims:
        if (vlan, ip) not in taken and len(one.addresses) < ADDRESSES:
            taken.add((vlan, ip))
            one.addresses[ip] = seen


def halves_of(ip: Ip) -> tuple[int, int]:
    """An address as the tables' two signed numbers of 64 bits."""
    packed = ip.packed.rjust(16, b"\0") if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed
    high, low = (int.from_bytes(packed[at : at + 8], "big", signed=True) for at in (0, 8))
    return high, low


def ip_of(high: int, low: int) -> Ip:
    """The address of two numbers from the tables."""
    ipv6 = IPv6Address((high & _HALF) << 64 | low & _HALF)
    return ipv6.ipv4_mapped or ipv6
