# SPDX-License-Identifier: Apache-2.0
"""Which MACs of a guest have moved on: the bridge has them on another port now.

A guest that was here all the time, paused or cut off, may have given a MAC to another machine,
which has spoken since. To announce it would take it from there. So the bridge's MAC table is read
first, of the place where the guest was. What it does not have, and what cannot be asked, has not
moved. Not of a guest that was elsewhere itself in between: then the table may mean that.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station, StationKey
from ovs_vhost_plugin.vswitchd import fdb
from ovs_vhost_plugin.vswitchd.unixctl import Answer, NoAnswer, Question, Switchd

MAC_ELSEWHERE = "mac-elsewhere"
"""The name of what is refused for that."""

Places = dict[StationKey, str]
"""Stations that have moved on, and where they are."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of a look for `port`, which was for `trigger`."""

    port: str
    trigger: str
    moved: Places


@dataclass(frozen=True, slots=True)
class _Look:
    trigger: str
    place: Location
    stations: tuple[Station, ...]


class Elsewhere:
    """At most one look a port: a new one takes the place of the one under way."""

    def __init__(self, switchd: Switchd) -> None:
        self._switchd = switchd
        self._looks: dict[str, _Look] = {}
        self._done: list[Looked] = []

    def look(
        self, port: str, trigger: str, place: Location, stations: Iterable[Station], now: float
    ) -> None:
        """Look for `stations` of a guest that was at `place`."""
        look = self._looks[port] = _Look(trigger, place, tuple(stations))
        question = Question("fdb/show", (place.bridge,))
        self._switchd.ask(question, partial(self._answered, port, look), now)

    def cancel(self, port: str) -> None:
        """Its guest has stopped."""
        self._looks.pop(port, None)

    def take_done(self) -> list[Looked]:
        """The looks that are done since the last call."""
        done, self._done = self._done, []
        return done

    def _answered(self, port: str, look: _Look, reply: Answer | NoAnswer, _now: float) -> None:
        if self._looks.get(port) is look:
            del self._looks[port]
            table = reply.text if isinstance(reply, Answer) else ""
            self._done.append(Looked(port, look.trigger, _moved(look, table)))


def refused_as(where: str) -> str:
    """What is said of a MAC that is there."""
    return f"mac-elsewhere: {where}"


def _moved(look: _Look, table: str) -> Places:
    found: Places = {}
    for one in look.stations:
        vlan = look.place.vlan.vlan_of(one.vlan)
        for entry in fdb.entries_of(table, one.mac):
            if entry.vlan == vlan and entry.port not in look.place.numbers:
                found[one.key] = f"on port {entry.port}"
    return found
