# SPDX-License-Identifier: Apache-2.0
"""A port whose guest migrates away: how far its hold is, and what came of it when it has ended."""

from collections import Counter
from dataclasses import dataclass, field

from ovs_vhost_plugin.daemon.guests.allowance import HOLD_LIMIT, SECONDS
from ovs_vhost_plugin.forward.departure import Departure
from ovs_vhost_plugin.net.station import StationKey
from ovs_vhost_plugin.openflow.connection import BridgeConnection
from ovs_vhost_plugin.openflow.wire import Addressed


@dataclass(frozen=True, slots=True)
class Record:
    """A hold that has ended; times CLOCK_MONOTONIC.

    counts   what the worker says became of its frames
    refused  how many that it handed over were not forwarded, by the name of the reason
    over     what it had too much of, if it was ended for that
    """

    port: str
    began_at: float
    ended_at: float
    counts: dict[str, int]
    places: dict[str, int]
    refused: dict[str, int]
    over: str = ""

    def summary(self) -> str:
        """One line for the log."""
        words = [f"{n} {k.replace('_', ' ')}" for k, n in sorted(self.counts.items())]
        words += [f"{n} refused {name}" for name, n in sorted(self.refused.items())]
        places = [f"{station} on port {port}" for station, port in self.places.items()]
        seconds = self.ended_at - self.began_at
        ends = [f"{HOLD_LIMIT}: {self.over}"] if self.over else []
        notes = "".join(f"; {note}" for note in places[:4] + ends)
        return f"held for {seconds:.2f} s: {', '.join(words) or 'no frames'}{notes}"


@dataclass(slots=True)
class Leaving:
    """A port whose guest migrates, or did."""

    departure: Departure
    hold: int | None = None
    bridge: BridgeConnection | None = None
    released: dict[int, frozenset[StationKey]] = field(
        default_factory=dict
    )  # requests not yet answered
    queue: list[Addressed] = field(default_factory=list)  # wait for the batch before them
    release_at: float = 0.0
    asked: bool = False  # for the table
    sights: int = 0  # that were logged
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def lasts_until(self) -> float | None:
        """When its hold is over, whatever the worker says; None without one."""
        return None if self.bridge is None else self.departure.began + SECONDS

    def may_release(self) -> bool:
        """Whether the worker is to be asked for the next batch.

        After the one before has arrived, which gives switches behind the bridge time to take it; or
        when there is more to ask for than there was. The worker goes by the last request: none is
        to wait for another's frames, which may not come.
        """
        stations = self.departure.places.keys()
        if not stations or self.bridge is None or not self.bridge.idle or self.queue:
            return False
        asked = max(self.released, default=None)
        return asked is None or self.released[asked] != stations
