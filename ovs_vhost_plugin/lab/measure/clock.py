# SPDX-License-Identifier: Apache-2.0
"""One time line for what others stamp with the time of day: CLOCK_MONOTONIC."""

from __future__ import annotations

import time

_READINGS = 5


def from_wall() -> float:
    """What to add to a time of day to get CLOCK_MONOTONIC, both in seconds.

    The two clocks cannot be read at once, and on a busy machine milliseconds may pass in between.
    So they are read a few times, and the reading counts that took the shortest. The time of day is
    only slewed in the length of a test: one offset fits all of it.
    """
    readings = []
    for _ in range(_READINGS):
        before = time.monotonic()
        wall = time.time()
        after = time.monotonic()
        readings.append((after - before, (before + after) / 2 - wall))
    return min(readings)[1]
