# SPDX-License-Identifier: Apache-2.0
"""Tells when a guest whose rings have begun to run receives its first frame.

After a migration that is the moment at which the network has found the guest. The compiled loop
reads no clock: it wakes the worker once, and the worker looks at the counters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ovs_vhost_plugin.worker.device.queuepair import QueuePair


class FirstFrame:
    """Watches the queue pairs, which may become more, from `begin` until a frame was received."""

    def __init__(self, pairs: Sequence[QueuePair], on_frame: Callable[[float], object]) -> None:
        """on_frame: called with the time, CLOCK_MONOTONIC seconds."""
        self._pairs = pairs
        self._on_frame = on_frame
        self._before: dict[int, int] | None = None  # by pair: frames received; None: no watch

    def begin(self) -> None:
        """Watch for the next frame: rings are about to run."""
        self._before = {pair.index: pair.counters["rx_packets"] for pair in self._pairs}
        for pair in self._pairs:
            pair.tell_of_frames(True)

    def get_timer(self) -> None:
        """Never: the pairs wake the worker."""

    def handle_timer(self, now: float) -> None:
        """Look at the pairs that woke the worker. To be called in each turn of its loop."""
        if self._before is None:
            return
        for pair in self._pairs:
            if pair.index not in self._before or pair.tells_of_frames:
                continue
            if pair.counters["rx_packets"] > self._before[pair.index]:
                self._end()
                self._on_frame(now)
                return
            pair.tell_of_frames(True)  # it only dropped frames

    def _end(self) -> None:
        self._before = None
        for pair in self._pairs:
            pair.tell_of_frames(False)
