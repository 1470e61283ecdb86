# SPDX-License-Identifier: Apache-2.0
"""Pauses between tries, each twice as long as the one before. The time is an argument."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Backoff:
    """The time of the next try, as a value: `failed` returns the next back-off.

    first, last  the shortest and the longest pause, seconds
    good_after   after so many seconds of success the pauses begin anew
    delay        the pause after the last failure, 0 before the first
    retry_at     the time of the next try, 0 before the first failure
    """

    first: float
    last: float
    good_after: float = math.inf
    delay: float = 0.0
    retry_at: float = 0.0

    def failed(self, now: float, lived: float = 0.0) -> Backoff:
        """The back-off after a failure now, following `lived` seconds of success."""
        delay = self.first
        if self.delay and lived < self.good_after:
            delay = min(2 * self.delay, self.last)
        return replace(self, delay=delay, retry_at=now + delay)

    def worked(self) -> Backoff:
        """The back-off without a failure."""
        return Backoff(self.first, self.last, self.good_after)
