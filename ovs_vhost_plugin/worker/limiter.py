# SPDX-License-Identifier: Apache-2.0
"""Limits of rate: reports that a peer can cause at will reach the daemon only so often.

The latest value is never lost: a value held back is due later, and `take` gives it then.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from ovs_vhost_plugin.common.ratelimit import TokenBucket

T = TypeVar("T")


class Limiter(Generic[T]):
    """Holds the latest value offered until there is a token for it."""

    def __init__(self, rate: float, burst: int) -> None:
        self._bucket = TokenBucket(rate, burst, 0.0)
        self._pending: T | None = None

    def offer(self, value: T) -> None:
        """Replace the pending value by `value`."""
        self._pending = value

    def take(self, now: float) -> T | None:
        """Return the pending value if there is a token at `now` (seconds), else None."""
        if self._pending is None or not self._bucket.take(now):
            return None
        value, self._pending = self._pending, None
        return value

    def get_timer(self) -> float | None:
        """The time from which `take` gives the value, perhaps past; None: no value is pending."""
        return None if self._pending is None else self._bucket.next_at()
