# SPDX-License-Identifier: Apache-2.0
"""Addresses that moved from the guest to others, by their claims or the bridge's MAC table.

Times decide: the last to claim an address has it. So the guest has an address again once it claims
the address, and a MAC once it sends from the MAC. Claims of others add no stations.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ovs_vhost_plugin.jit import fresh
from ovs_vhost_plugin.jit.layout import WATCHED_DTYPE
from ovs_vhost_plugin.net.station import StationKey
from ovs_vhost_plugin.worker.learned.stations import Ip, LearnedStation, halves_of

Address = tuple[StationKey, Ip]
"""An IP address of a station."""


class Watch:
    """The addresses of a port for which its queue pairs listen (`jit/net/overhear.py`)."""

    def __init__(self) -> None:
        self.tables: fresh.Watch = fresh.new_watch()
        self._rows, self._count = self.tables
        self._places: dict[Address, tuple[int, int]] = {}  # row, and since when it is watched
        self._free = list(range(len(self._rows)))[::-1]

    def claims(self) -> dict[Address, int]:
        """The addresses that others have claimed, and when, in ms of CLOCK_MONOTONIC."""
        found = {}
        for address, (place, since) in self._places.items():
            at = int(self._rows[place]["claimed"])
            if at > since:
                found[address] = at
        return found

    def follow(self, stations: Iterable[LearnedStation], now: int) -> None:
        """Listen for claims to the addresses of `stations` from now on."""
        wanted = {(one.key, ip) for one in stations for ip in one.addresses}
        for gone in self._places.keys() - wanted:
            place, _ = self._places.pop(gone)
            self._rows[place] = np.zeros((), WATCHED_DTYPE)
            self._free.append(place)
        for address in sorted(wanted - self._places.keys(), key=str):
            if not self._free:
                break
            place = self._free.pop()
            (mac, vlan), ip = address
            key = vlan << 48 | int.from_bytes(mac, "big")
            self._rows[place] = (key, *halves_of(ip), 0)
            self._places[address] = place, now
        self._count[0] = 1 + max((place for place, _ in self._places.values()), default=-1)


class MovedOn:
    """The addresses and MACs of one guest that others have now."""

    def __init__(self) -> None:
        self._addresses: dict[Address, int] = {}  # when another claimed it
        self._stations: dict[StationKey, int] = {}  # when the bridge had it elsewhere

    @property
    def addresses(self) -> bool:
        """Whether there is an address that the guest may claim again."""
        return bool(self._addresses)

    def claimed(self, claims: dict[Address, int]) -> None:
        """Record the claims of others."""
        self._addresses.update(claims)

    def elsewhere(self, keys: Iterable[StationKey], now: int) -> None:
        """Record stations that the bridge has on other ports."""
        self._stations.update(dict.fromkeys(keys, now))

    def without(self, stations: list[LearnedStation]) -> list[LearnedStation]:
        """All the seen `stations`, without those and their addresses that have moved on.

        Stations that are not seen any more, or that the guest has again, are forgotten here.
        """
        self._stations = {
            one.key: at
            for one in stations
            if (at := self._stations.get(one.key)) is not None and one.seen <= at
        }
        self._addresses = {
            (one.key, ip): at
            for one in stations
            for ip in one.addresses
            if (at := self._addresses.get((one.key, ip))) is not None and one.claimed(ip) < at
        }
        return [
            replace(
                one,
                addresses={
                    ip: seen
                    for ip, seen in one.addresses.items()
                    if (one.key, ip) not in self._addresses
                },
            )
            for one in stations
            if one.key not in self._stations
        ]
