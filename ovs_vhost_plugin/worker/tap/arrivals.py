# SPDX-License-Identifier: Apache-2.0
"""Which of the frames that a tap keeps are the guest's, when its rings start and stop.

A tap keeps up to txqueuelen frames that nobody reads, however old. A guest gets what came since it
was expected, or what a hold kept for it when it comes back, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.tap.holding import Holding
from ovs_vhost_plugin.worker.tap.queues import TapQueues


class Arrivals:
    """The tap of one port as seen by its queue pairs."""

    def __init__(self, pairs: Sequence[QueuePair], taps: TapQueues, holding: Holding) -> None:
        self.expecting = False  # frames are let into the tap for a guest that does not run yet
        self.holding = holding
        self.pairs = tuple(pairs)
        self._taps = taps

    @property
    def takes_uso(self) -> bool:
        """Whether the tap takes large UDP frames (`TapQueues.takes_uso`)."""
        return self._taps.takes_uso

    def set_format(self, header_size: int, features: int) -> None:
        """Set the virtio-net header's size and the offloads of frames."""
        self._taps.set_format(header_size, features)

    def update(self, receives: Sequence[bool]) -> None:
        """Let the tap follow what receives, is held or expected: steering and carrier."""
        self.expecting = self.expecting and not any(receives)
        held = [self.holding.covers(pair.index) for pair in self.pairs]
        # A queue that is detached loses what is in it.
        self._taps.set_attached([a or b for a, b in zip(receives, held, strict=True)])
        self._taps.set_carrier(any(receives) or any(held) or self.expecting)

    def welcome(self, pair: QueuePair) -> None:
        """Decide what of all that came before its ring runs is the guest's.

        What a hold kept, if it comes back to where it left; what came since it was expected; else
        nothing.
        """
        if self.holding.covers(pair.index):
            pair.give(self.holding.give_back(pair.index))
        elif not self._taps.carrier:
            self._discard()

    def expect(self) -> bool:
        """Begin to let frames in for a guest that is about to run; False: they are already."""
        if self._taps.carrier:
            return False
        self._discard()
        self.expecting = True
        return True

    def _discard(self) -> None:
        self._taps.discard()
        for pair in self.pairs:
            if not pair.running:
                pair.take_waiting()
