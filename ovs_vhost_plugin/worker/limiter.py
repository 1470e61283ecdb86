# SPDX-License-Identifier: Apache-2.0
"""Limits of rate: what a peer can cause at will reaches the daemon only so often.

The latest value is never lost: what is held back is due later, and `take` gives it then.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from ovs_vhost_plugin.common.ratelimit import TokenBucket

T = TypeVar("T")


class Limiter(Generic[T]):
    """Holds the latest value offered until a token is there for it."""

    def __init__(self, rate: float, burst: int) -> None:
        self._bucket = TokenBucket(rate, burst, 0.0)
        self._pending: T | None = None

    def offer(self, value: T) -> None:
        """Replace what is pending by `value`."""
        self._pending = value

    def take(self, now: float) -> T | None:
        """Give the pending value if a token is there at `now` (seconds), else None."""
        if self._pending is None or not self._bucket.take(now):
            return None
        value, self._pending = self._pending, None
        return value

    def get_timer(self) -> float | None:
        """When `take` will give something, perhaps long ago; None when nothing is pending."""
        return None if self._pending is None else self._bucket.next_at()
