# SPDX-License-Identifier: Apache-2.0
"""Decides which of the tap's frames are the guest's, when its rings start and stop.

A tap keeps up to txqueuelen frames that nobody reads, however old. A guest gets the frames since
the gate was opened for it, or the frames that a hold kept for it when it comes back, and nothing
else. Time is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence

from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.tap.holding import Holding
from ovs_vhost_plugin.worker.tap.queues import TapQueues

EARLY_SECONDS = 2.0
"""QEMU starts the rings within milliseconds, and its last announcement comes after 0.8 s."""


class TapGate:
    """The tap of one port as seen by its queue pairs."""

    def __init__(self, pairs: list[QueuePair], taps: TapQueues, holding: Holding) -> None:
        """`pairs` grows as queues of the tap come (`device/rings.py`)."""
        self.early = False
        """Whether frames are let into the tap for a guest that does not run yet."""
        self.awaited: set[int] = set()
        """Pairs for whose ring frames wait in the queue: it is about to run, or to be held."""
        self.holding = holding
        self.pairs = pairs
        self._taps = taps
        self._late_at: float | None = None

    @property
    def takes_uso(self) -> bool:
        """Whether the tap takes large UDP frames (`TapQueues.takes_uso`)."""
        return self._taps.takes_uso

    def set_format(self, header_size: int, features: int) -> None:
        """Set the virtio-net header's size and the offloads of frames."""
        self._taps.set_format(header_size, features)

    def update(self, receives: Sequence[bool]) -> None:
        """Set the tap's steering and carrier by the pairs that receive, are held or are to run."""
        self.early = self.early and not any(receives)
        for pair, runs in zip(self.pairs, receives, strict=True):
            if runs:
                self.awaited.discard(pair.index)
        held = [self.holding.covers(pair.index) for pair in self.pairs]
        awaited = [pair.index in self.awaited for pair in self.pairs]
        # A detached queue loses its frames.
        self._taps.set_attached([any(uses) for uses in zip(receives, held, awaited, strict=True)])
        self._taps.set_carrier(any(receives) or any(held) or self.early)

    def on_ring_start(self, pair: QueuePair) -> None:
        """Decide which frames from before its receive ring runs are the guest's.

        They are the frames of a hold, if the guest comes back to where it left; else the frames
        since the gate was opened early; else none.
        """
        if self.holding.covers(pair.index):
            pair.give(self.holding.give_back(pair.index))
        elif not self._taps.carrier:
            self._discard()

    def open_early(self) -> bool:
        """Let frames in for a guest that is about to run; False: they are let in already."""
        if self._taps.carrier:
            return False
        self._discard()
        self.early = True
        self._late_at = None
        return True

    def await_ring(self, pair: QueuePair) -> None:
        """Let the frames of a queue wait for its ring: it has come, or its guest may be leaving."""
        self.awaited.add(pair.index)
        self._late_at = None

    def hold(self, pair: QueuePair) -> None:
        """Hold the frames that wait for a pair which is stopped, and those that come."""
        self.awaited.discard(pair.index)
        self.holding.begin(pair.index, pair.take_waiting())

    def overdue(self, now: float) -> bool:
        """Whether a ring for which frames wait is late: the guest's first one, or a further pair's.

        Its time counts from the first call for the latest of them: the worker may have slept long
        before.
        """
        if not self.early and not self.awaited:
            self._late_at = None
        elif self._late_at is None:
            self._late_at = now + EARLY_SECONDS
        return self._late_at is not None and now >= self._late_at

    def get_timer(self) -> float | None:
        """The time at which the guest is `overdue`; None while none is waited for."""
        return self._late_at

    def _discard(self) -> None:
        self._taps.discard()
        for pair in self.pairs:
            if not pair.running:
                pair.take_waiting()
