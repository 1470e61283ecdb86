# SPDX-License-Identifier: Apache-2.0
"""The hold of one port, from the begin of a migration to the end, step by step. Sans-IO.

LOG_ALL ──► MacTracker: whose addresses has the bridge on this port?
holding ──► MacTracker: which of them are on another port now?
        ──► next_release ──► worker ──► take ──► queue ──► packet-outs ──► next_release ...
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ovs_vhost_plugin.forward.allowance import HOLD_LIMIT, SECONDS
from ovs_vhost_plugin.forward.rewrite import Rows, Unfit
from ovs_vhost_plugin.forward.tracker import MacTracker
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import StationKey
from ovs_vhost_plugin.net.vlan import PortVlan
from ovs_vhost_plugin.openflow.wire import Addressed

PAUSE = 0.005
"""Seconds between two batches when the first has left nothing: stragglers come in ones."""


@dataclass(frozen=True, slots=True)
class Record:
    """A hold that has ended; times CLOCK_MONOTONIC.

    counts   what the worker says became of its frames
    places   the ports to which frames went, by their station
    refused  how many frames that it handed over were not forwarded, by the name of the reason
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


class PortHold:
    """A port whose guest migrates, or did.

    number   the worker's number of its hold, None before there is one
    active   the hold goes on; False before it, and once its allowance was used up
    queue    frames that wait for the batch before them
    refused  how many frames were not forwarded, by the name of the reason
    """

    def __init__(self, now: float) -> None:
        self.tracker = MacTracker(now)
        self.number: int | None = None
        self.active = False
        self.queue: list[Addressed] = []
        self.refused: Counter[str] = Counter()
        self._released: dict[int, frozenset[StationKey]] = {}  # requests not answered yet
        self._release_at = 0.0

    @classmethod
    def over(cls, number: int | None, now: float) -> PortHold:
        """The rest of a hold that was ended: its number, so that it does not begin again."""
        ended = cls(now)
        ended.number = number
        ended.tracker.rest()
        return ended

    @property
    def places(self) -> dict[str, int]:
        """The ports on which stations were found, by the station as text."""
        return {key.encode(): number for key, number in self.tracker.new_ports.items()}

    @property
    def lasts_until(self) -> float | None:
        """When the hold is over, whatever the worker says; None without one."""
        return self.tracker.began + SECONDS if self.active else None

    def begin(self, number: int) -> None:
        """Begin the worker's hold `number`."""
        self.number, self.active = number, True

    def table(self, text: str, place: Location, rows: Rows, now: float) -> bool:
        """Take the bridge's MAC table; whether a station was found on a new port."""
        found = self.tracker.table(text, place, rows, now)
        if found:
            self._release_at = now
        return found

    def next_release(self, now: float, *, idle: bool) -> frozenset[StationKey]:
        """The stations of which the worker is to be asked for a batch now; none: not now.

        `idle`: the bridge has taken what was sent to it.
        """
        return self._wanted(idle=idle) if now >= self._release_at else frozenset()

    def released(self, request: int, stations: frozenset[StationKey]) -> None:
        """Note that the worker was asked."""
        self._released[request] = stations

    def asked_for(self, request: int) -> bool:
        """Whether `request` waits for its answer."""
        return self.active and request in self._released

    def answered(self, request: int, now: float, *, left: bool) -> None:
        """Note the answer to a request; the worker forgets those before it. `left`: it has more."""
        self._released = {n: keys for n, keys in self._released.items() if n > request}
        self._release_at = now if left else now + PAUSE

    def take(
        self,
        frames: Sequence[bytes],
        place: Location,
        vlans: Mapping[int, PortVlan],
        rows: Rows,
    ) -> Counter[str]:
        """Queue what may go on of a batch; count the rest by the name of the reason."""
        refused: Counter[str] = Counter()
        for one in self.tracker.rewrite(frames, place, vlans, rows):
            if isinstance(one, Unfit):
                refused[one.value] += 1
            else:
                self.queue.append(one)
        self.refused += refused
        return refused

    def get_timer(self, *, idle: bool) -> float | None:
        """When the hold is over, or the worker is to be asked; None: neither by itself."""
        times = [self.lasts_until, self._release_at if self._wanted(idle=idle) else None]
        return min((at for at in times if at is not None), default=None)

    def record(self, port: str, counts: dict[str, int], now: float, over: str = "") -> Record:
        """The record of the hold as it ends."""
        began = self.tracker.began
        return Record(port, began, now, counts, self.places, dict(self.refused), over)

    def _wanted(self, *, idle: bool) -> frozenset[StationKey]:
        """The stations to ask for, as soon as it is time.

        After the batch before has arrived, which gives switches behind the bridge time to take it;
        or when there is more to ask for than there was. The worker goes by the last request: no
        station is to wait for another's frames, which may not come.
        """
        stations = frozenset(self.tracker.new_ports)
        if not self.active or not idle or self.queue:
            return frozenset()
        last = max(self._released, default=None)
        return frozenset() if last is not None and self._released[last] == stations else stations
