# SPDX-License-Identifier: Apache-2.0
"""A token bucket; the time is an argument."""

from __future__ import annotations


class TokenBucket:
    """Allows `burst` events (or bytes, ...) at once, and `rate` a second in the long run."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._filled_at = now

    def take(self, now: float, tokens: int = 1) -> bool:
        """Take so many tokens if there are enough; return whether there were."""
        self._fill(now)
        if self._tokens < tokens:
            return False
        self._tokens -= tokens
        return True

    def ready_at(self, now: float) -> float:
        """The time of the next token; `now` if there is one."""
        return max(now, self.next_at())

    def next_at(self) -> float:
        """The time of the next token, in the past if there is one."""
        return self._filled_at + max(0.0, 1 - self._tokens) / self._rate

    def _fill(self, now: float) -> None:
        gained = max(0.0, now - self._filled_at) * self._rate
        self._tokens = min(self._burst, self._tokens + gained)
        self._filled_at = max(self._filled_at, now)
