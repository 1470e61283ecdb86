# SPDX-License-Identifier: Apache-2.0
"""Room in a port's tap for what comes before its guest has found its feet.

What follows a guest that moves in comes all at once: all that was held for it, before its rings run
or while it has much else to do. So from when a front-end connects until its guest has run for some
time, the tap's queues are long. Then they are as before: a guest that takes less than is sent to it
shall drop frames, and not have them later and later. It is not done when the guest arrives, as
ovs-vswitchd looks at all its ports when an interface changes, and would announce the guest later.
"""

from __future__ import annotations

from typing import Protocol

from ovs_vhost_plugin.daemon.reports import State

SECONDS = 10.0
"""After it began to run: as long as a hold lasts (worker/hold.py)."""
LONG, ALL_LONG = 16384, 65536
"""Frames of a tap queue, as many as a hold keeps, and of all the queues of a tap."""
USUAL = 1000
"""A tap's txqueuelen if nobody has changed it (Linux, drivers/net/tun.c)."""
_LOG_ALL = 1 << 26  # vhost-user "Migration"


class QueueLengths(Protocol):
    """Taps by name; the length is the txqueuelen of each of its queues."""

    def queue_length(self, name: str) -> int | None:
        """The length; None if there is no such tap."""

    def set_queue_length(self, name: str, frames: int) -> None:
        """Change it, if the tap is there."""


class Room:
    """Which taps are long now. Times are told."""

    def __init__(self, taps: QueueLengths) -> None:
        self._taps = taps
        self._usual: dict[str, int] = {}  # of those that are long
        self._until: dict[str, float] = {}

    def found(self, name: str, queues: int) -> None:
        """A worker is there: one whose tap an earlier daemon has left long, perhaps."""
        if self._taps.queue_length(name) == length(queues) > USUAL:
            self._usual.setdefault(name, USUAL)

    def told(self, name: str, state: State, queues: int, now: float) -> None:
        """Take the port's state; `queues` is the most that it has."""
        if state.status == "running":
            if name in self._usual:
                self._until.setdefault(name, now + SECONDS)
        elif state.status != "connected":
            self.gone(name)
        elif not state.has(_LOG_ALL):  # a guest that migrates away leaves nothing to wait for it
            self._until.pop(name, None)
            self._lengthen(name, length(queues))

    def gone(self, name: str) -> None:
        """There is no guest, or no port any more."""
        self._until.pop(name, None)
        usual = self._usual.pop(name, None)
        if usual is not None:
            self._taps.set_queue_length(name, usual)

    def run(self, now: float) -> None:
        """Shorten what has been long for long enough."""
        for name in [name for name, until in self._until.items() if now >= until]:
            self.gone(name)

    def wake_at(self) -> float | None:
        """When `run` has something to do, None for never."""
        return min(self._until.values(), default=None)

    def _lengthen(self, name: str, frames: int) -> None:
        before = self._taps.queue_length(name)
        if name not in self._usual and before is not None and before < frames:
            self._usual[name] = before
            self._taps.set_queue_length(name, frames)


def length(queues: int) -> int:
    """How long each of so many queues may be."""
    return min(LONG, ALL_LONG // queues)
