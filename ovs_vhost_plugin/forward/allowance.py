# SPDX-License-Identifier: Apache-2.0
"""The limits of forwarding for one port, whatever its worker says. Pure, told the time.

A worker has bounds of its own (`worker/tap/hold.py`), and one that was taken over has none. These
are a little wider, so an honest one never meets them: 10,000 frames a second of 1,500 bytes, which
is what a hold is made for, for all of its 10 s. In the long run a port has far less.
"""

from ovs_vhost_plugin.common.ratelimit import TokenBucket

HOLD_LIMIT = "hold-over-limit"
"""The name under which a hold is ended that goes beyond them."""

SECONDS = 12.0
"""Of a hold: the worker's own 10 s, and what its last word may be late."""
FRAMES, FRAMES_PER_SECOND = 131_072, 2_048
"""Of all holds: at once, and in the long run."""
BYTES, BYTES_PER_SECOND = 192 << 20, 3 << 20
BATCHES, BATCHES_PER_SECOND = 8_192, 128
"""Of 32 frames of 1,500 bytes, which is what one holds, or of one, 5 ms after the other."""
HOLDS_PER_SECOND, HOLDS_AT_ONCE = 0.2, 5
"""Migrations; with more, frames stay held and are dropped by the worker."""


class Allowance:
    """The rest of one port's allowance."""

    def __init__(self, now: float) -> None:
        self._holds = TokenBucket(HOLDS_PER_SECOND, HOLDS_AT_ONCE, now)
        self._looks = TokenBucket(HOLDS_PER_SECOND, HOLDS_AT_ONCE, now)
        self._batches = TokenBucket(BATCHES_PER_SECOND, BATCHES, now)
        self._frames = TokenBucket(FRAMES_PER_SECOND, FRAMES, now)
        self._bytes = TokenBucket(BYTES_PER_SECOND, BYTES, now)

    def look(self, now: float) -> bool:
        """Whether the bridge may be asked what it has on the port, as a migration begins."""
        return self._looks.take(now)

    def hold(self, now: float) -> bool:
        """Whether another hold may begin."""
        return self._holds.take(now)

    def batch(self, frames: int, size: int, now: float) -> str:
        """Take a batch of so many frames and bytes; the limit that it is over, "" if none."""
        if not self._batches.take(now):
            return f"more than {BATCHES} batches"
        if not self._frames.take(now, frames):
            return f"more than {FRAMES} frames"
        if not self._bytes.take(now, size):
            return f"more than {BYTES >> 20} MiB"
        return ""
