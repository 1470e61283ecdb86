# SPDX-License-Identifier: Apache-2.0
"""The capture of a port, while there is one: each queue pair records into its part of a file.

Only a daemon that is there captures: when it leaves, nobody would say when the reader has gone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from ovs_vhost_plugin.ipc.captures import CaptureErrorName
from ovs_vhost_plugin.ipc.commands import CaptureFrames
from ovs_vhost_plugin.jit.capture_ring import PART
from ovs_vhost_plugin.vhost.memory import mapping
from ovs_vhost_plugin.worker.complaints import Complaints
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.device.vringconfig import PairCapture


class PortCapture:
    """The capture of the `pairs` that there are so far, of a port that may have `queues`."""

    def __init__(self, pairs: Sequence[QueuePair], queues: int, complaints: Complaints) -> None:
        self._pairs = pairs
        self._queues = queues
        self._complaints = complaints
        self._parts: list[PairCapture] = []

    def begin(self, wanted: CaptureFrames, fd: int) -> None:
        """Capture into a file, which is taken over, in place of an earlier one."""
        self.end()
        try:
            memory = mapping.map_shared(fd, 0, PART * self._queues)
        except (OSError, mapping.TooShortError):
            self._complaints.counts[CaptureErrorName.NO_MEMORY] += 1
            return
        finally:
            os.close(fd)
        self._parts = [
            PairCapture(memory[PART * i : PART * (i + 1)], wanted.directions, wanted.snap)
            for i in range(self._queues)
        ]
        for pair in self._pairs:
            self.follow(pair)

    def follow(self, pair: QueuePair) -> None:
        """Capture a pair as well, if there is a capture."""
        if pair.index >= len(self._parts):
            return
        capture = self._parts[pair.index]
        if mapping.populate(capture.part):
            pair.capture(capture)
        else:  # a write would end this process
            self._complaints.counts[CaptureErrorName.NO_MEMORY] += 1

    def end(self) -> None:
        """Capture no more."""
        if self._parts:
            self._parts = []
            for pair in self._pairs:
                pair.capture(None)
