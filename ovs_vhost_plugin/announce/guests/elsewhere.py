# SPDX-License-Identifier: Apache-2.0
"""Finds the MACs of a guest that have moved on: the bridge has them on another port now. Pure.

A guest that was here all the time, paused or cut off, may have given a MAC to another machine,
which has spoken since. To announce it would take it from there. So the bridge's MAC table is read
first, of the place where the guest was. A MAC that the table does not have has not moved, nor has
one of a table that cannot be read. A guest that was elsewhere itself in between is not looked for:
then the table may mean that.
"""

from __future__ import annotations

from dataclasses import dataclass

from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station, StationKey
from ovs_vhost_plugin.vswitchd import fdb

MAC_ELSEWHERE = "mac-elsewhere"
"""The name under which such a MAC is refused."""


@dataclass(frozen=True, slots=True)
class Look:
    """A look for the stations of a guest that was at `place`.

    trigger  the guest is to be announced for that afterwards; "": it is not
    """

    port: str
    trigger: str
    place: Location
    stations: tuple[Station, ...]


def moved(look: Look, table: str) -> dict[StationKey, str]:
    """The stations that have moved on, by a MAC table, each with the text of its refusal."""
    found = {}
    for one in look.stations:
        vlan = look.place.vlan.vlan_of(one.vlan)
        for entry in fdb.entries_of(table, one.mac):
            if entry.vlan == vlan and entry.port not in look.place.numbers:
                found[one.key] = f"mac-elsewhere: on port {entry.port}"
    return found
