# SPDX-License-Identifier: Apache-2.0
"""Converts times of day, as others stamp them, to CLOCK_MONOTONIC."""

from __future__ import annotations

import time

_READINGS = 5


def from_wall() -> float:
    """The offset to add to a time of day to get CLOCK_MONOTONIC, both in seconds.

    The two clocks cannot be read at once, and on a busy machine milliseconds may pass in between.
    So they are read a few times, and the shortest reading counts. During a test the time of day is
    only slewed: one offset fits all of it.
    """
    readings = []
    for _ in range(_READINGS):
        before = time.monotonic()
        wall = time.time()
        after = time.monotonic()
        readings.append((after - before, (before + after) / 2 - wall))
    return min(readings)[1]
