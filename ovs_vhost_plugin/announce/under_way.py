# SPDX-License-Identifier: Apache-2.0
"""The announcements of one port that are under way, and what its peers may ask for. Told the time.

A peer may ask for what it does not get as often as it likes. Each refusal is counted, but who
reads the log is told once of each, and not of too many at once.
"""

from __future__ import annotations

from collections.abc import Iterator

from ovs_vhost_plugin.announce.announcement import Announcement
from ovs_vhost_plugin.common.ratelimit import TokenBucket
from ovs_vhost_plugin.net.station import StationKey

MAX_UNDER_WAY = 64  # announcements on one port; the oldest gives way to the newest
ATTEMPT_RATE, ATTEMPT_BURST = 40.0, 80  # of one port; QEMU sends 5 requests in 0.8 s
REFUSAL_RATE, REFUSAL_BURST = 1.0, 5
"""Refusals that are told, a second and at once."""
REMEMBERED = 64
"""Refusals that were told and are not told again; with so many there is nothing new."""


class UnderWay:
    """The announcements of one port, at most one for a station.

    attempts  allows the port so many
    """

    def __init__(self, now: float) -> None:
        self.attempts = TokenBucket(ATTEMPT_RATE, ATTEMPT_BURST, now)
        self._refusals = TokenBucket(REFUSAL_RATE, REFUSAL_BURST, now)
        self._told: set[object] = set()
        self._announcements: dict[StationKey, Announcement] = {}  # oldest first

    def __iter__(self) -> Iterator[Announcement]:
        return iter(list(self._announcements.values()))

    def __len__(self) -> int:
        return len(self._announcements)

    def __contains__(self, announcement: Announcement) -> bool:
        return self._announcements.get(announcement.request.station.key) is announcement

    def of(self, station: StationKey) -> Announcement | None:
        """The announcement of a station."""
        return self._announcements.get(station)

    def add(self, announcement: Announcement) -> Announcement | None:
        """Take one more; the oldest if it has to give way, None if there is room."""
        oldest = None
        if len(self._announcements) >= MAX_UNDER_WAY:
            oldest = self._announcements.pop(next(iter(self._announcements)))
        self._announcements[announcement.request.station.key] = announcement
        return oldest

    def remove(self, announcement: Announcement) -> None:
        """Take one away that has ended."""
        del self._announcements[announcement.request.station.key]

    def clear(self) -> list[Announcement]:
        """Take all away; return them, oldest first."""
        cleared, self._announcements = list(self._announcements.values()), {}
        return cleared

    def may_tell(self, now: float) -> bool:
        """Whether one more refusal may be told."""
        return self._refusals.take(now)

    def is_news(self, what: object, now: float) -> bool:
        """Whether a refusal may be told, and `what` was not told before."""
        if what in self._told or len(self._told) >= REMEMBERED or not self._refusals.take(now):
            return False
        self._told.add(what)
        return True
