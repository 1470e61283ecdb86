# SPDX-License-Identifier: Apache-2.0
"""The effect of a migration on a guest's traffic, for people and programs.  Pure.

Times go in as CLOCK_MONOTONIC seconds and come out as milliseconds from the moment the source
stopped the guest, because its network went away at that moment.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True, slots=True)
class Mark:
    """An event: time, text and place."""

    at: float
    what: str
    where: str


@dataclass(frozen=True, slots=True)
class TimelineRow:
    """A line of the table: milliseconds from the source's stop, text and place."""

    milliseconds: float
    what: str
    where: str


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a migration under a flow.

    `lost`, `damaged` and `duplicated` count the flow's records at the guest, `reordered` those
    that came after a later one. Of the lost records, `unseen` were lost by the network in between:
    they came to no port of the guest, or were forwarded by the source and did not come to the
    destination's port. `overrun` were dropped at a full port, whose guest is too slow, `congested`
    by a switch that did not read them in time. `found`: the flow reached the guest again.

    The guest `stopped` at the source and `resumed` at the destination, in seconds. `downtime_ms` is
    the hypervisor's own figure; `outage_ms` is the longest time without a record at the guest,
    `delay_ms` the longest time that a record took.
    `learned_ms` is the time from the announcement's request until the destination's bridge had
    learned the MAC, None if it did not; `received` is the time at which each record came to the
    guest, in seconds.
    """

    guest: str
    announce: str
    stopped: float
    resumed: float
    marks: tuple[Mark, ...]
    sent: int
    lost: int
    damaged: int
    duplicated: int
    reordered: int
    unseen: int
    outage_ms: float
    delay_ms: float
    downtime_ms: float
    found: bool
    overrun: int = 0
    congested: int = 0
    learned_ms: float | None = None
    received: tuple[float, ...] = ()

    def rows(self) -> list[TimelineRow]:
        """The marks in the order in which they happened."""
        ordered = sorted(self.marks, key=lambda mark: mark.at)
        return [
            TimelineRow((mark.at - self.stopped) * 1e3, mark.what, mark.where) for mark in ordered
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; times in milliseconds, to the microsecond."""
        return {
            "guest": self.guest,
            "announce": self.announce,
            "timeline": [
                {"ms": round(row.milliseconds, 3), "event": row.what, "where": row.where}
                for row in self.rows()
            ],
            "packets": {
                "sent": self.sent,
                "lost": self.lost,
                "damaged": self.damaged,
                "duplicated": self.duplicated,
                "reordered": self.reordered,
                "unseen": self.unseen,
                "overrun": self.overrun,
                "congested": self.congested,
            },
            "outage_ms": round(self.outage_ms, 3),
            "delay_ms": round(self.delay_ms, 3),
            "downtime_ms": round(self.downtime_ms, 3),
            "resume_ms": round(self.resume_ms(), 3),
            "learned_ms": None if self.learned_ms is None else round(self.learned_ms, 3),
            "found": self.found,
        }

    def resume_ms(self) -> float:
        """Milliseconds from the end of the hypervisor's downtime until the guest runs.

        QEMU's downtime ends when the source has sent everything; the destination then loads it.
        """
        return (self.resumed - self.stopped) * 1e3 - self.downtime_ms

    def recovery_ms(self) -> float | None:
        """Milliseconds from the source's stop until the rate is back, less the downtime.

        The rate is back when the next 100 ms bring nine tenths of the average of the half second
        before the stop.
        """
        before = sum(self.stopped - 0.5 <= at < self.stopped for at in self.received) / 0.5
        for at in self.received[bisect_left(self.received, self.stopped) :]:
            window = bisect_left(self.received, at + 0.1) - bisect_left(self.received, at)
            if window >= 0.9 * before * 0.1:
                return (at - self.stopped) * 1e3 - self.downtime_ms
        return None


def deliveries(
    arrived: Iterable[int],
    source: Mapping[int, float],
    destination: Mapping[int, float],
    stopped: float,
    resumed: float,
) -> dict[int, float]:
    """The time at which each record that arrived came to the guest.

    `source` and `destination` are the times at which records passed the guest's tap on either host.
    A record that passed the source's tap before the guest `stopped` was delivered then; any other
    at the destination, not before the guest `resumed` there.
    """
    times = {}
    for number in arrived:
        if source.get(number, stopped) < stopped:
            times[number] = source[number]
        elif number in destination:
            times[number] = max(destination[number], resumed)
    return times


def longest_gap(times: Sequence[float]) -> float:
    """The longest time between two neighbours, in seconds; 0 with fewer than two."""
    return max((later - at for at, later in pairwise(times)), default=0.0)


def duplicates(numbers: Iterable[int]) -> list[int]:
    """The numbers that came more than once."""
    return sorted(number for number, count in Counter(numbers).items() if count > 1)


def overtaken(numbers: Iterable[int]) -> int:
    """The number of records that came after a record with a higher number."""
    highest, late = -1, 0
    for number in numbers:
        late += number < highest
        highest = max(highest, number)
    return late
