# SPDX-License-Identifier: Apache-2.0
"""How often something took how long: counts by upper bound, as Prometheus counts them."""

from bisect import bisect_left
from typing import Any

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds for what takes milliseconds and should not take seconds."""


class Histogram:
    """Counts of times, in seconds."""

    def __init__(self) -> None:
        self._counts = [0] * (len(SECONDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one time."""
        self._counts[bisect_left(SECONDS, seconds)] += 1
        self._sum += seconds

    def as_dict(self) -> dict[str, Any]:
        """Plain values: the counts by bound, each of its own bucket alone, and the sum."""
        bounds = (*map(str, SECONDS), "+Inf")
        return {"counts": dict(zip(bounds, self._counts, strict=True)), "sum": self._sum}
