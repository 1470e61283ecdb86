# SPDX-License-Identifier: Apache-2.0
"""A token bucket: what a peer can cause at will reaches the daemon only so often.

The latest value is never lost: what is held back is due later, and `take` gives it then.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Limiter(Generic[T]):
    """Holds the latest value offered until a token is there for it."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate  # tokens a second
        self._burst = burst
        self._tokens = float(burst)
        self._refilled = 0.0
        self._pending: T | None = None

    def offer(self, value: T) -> None:
        """Replace what is pending by `value`."""
        self._pending = value

    def take(self, now: float) -> T | None:
        """Give the pending value if a token is there at `now` (seconds), else None."""
        if self._pending is None:
            return None
        self._refill(now)
        if self._tokens < 1:
            return None
        self._tokens -= 1
        value, self._pending = self._pending, None
        return value

    def due(self, now: float) -> float | None:
        """Seconds until `take` will give something; None when nothing is pending."""
        if self._pending is None:
            return None
        self._refill(now)
        return max(0.0, (1 - self._tokens) / self._rate)

    def _refill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + (now - self._refilled) * self._rate)
        self._refilled = now
