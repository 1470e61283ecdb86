# SPDX-License-Identifier: Apache-2.0
"""How often the log takes a line, and what it says of lines that it did not take. Pure.

A guest that connects and fails all day would fill the disk with the same line. As with the rate
limits of Open vSwitch's daemons (lib/vlog.c, vlog_should_drop), each place in the code has a bucket
of lines. Here each port has its own there, so no port costs another its lines.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from ovs_vhost_plugin.common.ratelimit import TokenBucket

BURST = 20
"""Lines at once of one kind: a guest that is started anew a few times loses none."""
RATE = 0.1
"""Lines a second of one kind in the long run."""
MOST_KINDS = 8192
"""Kinds that are told apart: the ports of a large host, at all places that are in use."""

_LONGEST = 200  # characters: of a line that is quoted


P = TypeVar("P", bound=Hashable)


@dataclass(frozen=True, slots=True)
class LogKind(Generic[P]):
    """Lines that differ only in their details.

    place    where in the code they come from, and their level
    subject  the port, or whatever else stands before the first colon
    """

    place: P
    subject: str

    @classmethod
    def of(cls, place: P, line: str) -> LogKind[P]:
        """The kind of a line."""
        subject, colon, _ = line.partition(": ")
        return cls(place, subject if colon and len(subject) <= _LONGEST else "")


@dataclass(slots=True)
class _Dropped:
    """The lines of a kind that the log did not take, since the last word on them."""

    first: float
    last: float = 0.0
    count: int = 0
    line: str = ""

    def told(self, subject: str, now: float) -> str:
        before = f"{subject}: " if subject else ""
        within, since = round(now - self.first), round(now - self.last)
        return (
            f"{before}Dropped {self.count} log messages in last {within} seconds (most recently, "
            f"{since} seconds ago) due to excessive rate; the last: "
            f"{self.line.removeprefix(before):.{_LONGEST}}"
        )


class LogRates(Generic[P]):
    """The buckets of all kinds of lines, at most MOST_KINDS and one for each place."""

    def __init__(self, most: int = MOST_KINDS) -> None:
        self._most = most
        self._buckets: dict[
            LogKind[P], tuple[TokenBucket, float]
        ] = {}  # and when each was used last
        self._dropped: dict[LogKind[P], _Dropped] = {}

    def take(self, kind: LogKind[P], line: str, now: float) -> list[str]:
        """The lines to log now: this one, and before it a word on those dropped; or none."""
        kind = self._with_room(kind, now)
        bucket, _ = self._buckets.pop(kind, (TokenBucket(RATE, BURST, now), now))
        self._buckets[kind] = bucket, now  # the last in the dict's order
        if bucket.take(now):
            dropped = self._dropped.pop(kind, None)
            return [*([dropped.told(kind.subject, now)] if dropped else []), line]
        dropped = self._dropped.setdefault(kind, _Dropped(now))
        dropped.last, dropped.line = now, line[: 2 * _LONGEST]
        dropped.count += 1
        return []

    def overdue(self, now: float) -> Iterator[tuple[LogKind[P], str]]:
        """Words on lines that were dropped, as soon as a line of their kind may be logged."""
        for kind, dropped in list(self._dropped.items()):
            bucket, _ = self._buckets[kind]
            if bucket.take(now):
                self._buckets[kind] = bucket, now
                del self._dropped[kind]
                yield kind, dropped.told(kind.subject, now)

    def get_timer(self) -> float | None:
        """When `overdue` has something to say; None: nothing was dropped."""
        return min((self._buckets[kind][0].next_at() for kind in self._dropped), default=None)

    def _with_room(self, kind: LogKind[P], now: float) -> LogKind[P]:
        """This kind, or its place's for all subjects if there is no room for another."""
        if kind in self._buckets or len(self._buckets) < self._most:
            return kind
        oldest = next(iter(self._buckets))
        used = self._buckets[oldest][1]
        if oldest not in self._dropped and now - used >= BURST / RATE:
            del self._buckets[oldest]  # its bucket is full: nothing is forgotten
            return kind
        return LogKind(kind.place, "")
