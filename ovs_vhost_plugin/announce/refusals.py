# SPDX-License-Identifier: Apache-2.0
"""Which refusals of a port are told, of all that are counted; told the time.

A peer may ask for what it does not get as often as it likes. Who reads the log is told once of each
thing, and not too much at once.
"""

from __future__ import annotations

from ovs_vhost_plugin.common.ratelimit import TokenBucket

RATE, BURST = 1.0, 5
"""Refusals that are told, a second and at once."""
REMEMBERED = 64
"""Refusals that were told and are not told again; with so many there is nothing new."""


class Refusals:
    """Those of one port."""

    def __init__(self, now: float) -> None:
        self._bucket = TokenBucket(RATE, BURST, now)
        self._told: set[object] = set()

    def worth_telling(self, now: float) -> bool:
        """Whether there is room to tell of one."""
        return self._bucket.take(now)

    def is_news(self, what: object, now: float) -> bool:
        """Whether there is, and `what` was not told before."""
        if what in self._told or len(self._told) >= REMEMBERED or not self._bucket.take(now):
            return False
        self._told.add(what)
        return True
