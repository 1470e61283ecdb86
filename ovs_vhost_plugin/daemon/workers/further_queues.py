# SPDX-License-Identifier: Apache-2.0
"""Gives workers further queues of their taps, once their front-ends set up further queue pairs.

A worker gets each queue of its own port's tap once, up to the number of pairs that its row offers.
One that was taken over can get no other tap's, and can have none opened without end.
"""

import os
from typing import Protocol

from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.daemon.workers.link import WorkerLink
from ovs_vhost_plugin.ipc.commands import GiveQueue
from ovs_vhost_plugin.tap import TapError

vlog = Vlog("vhost_queues")


class Openable(Protocol):
    """The calls of tap/taps.py that are used here."""

    def open_further(self, name: str) -> int:
        """Open one more queue of a tap in use. Raises TapError."""


class FurtherQueues:
    """The queues that workers have, by the names of their ports."""

    def __init__(self, taps: Openable) -> None:
        self._taps = taps
        self._given: dict[str, int] = {}

    def hello(self, name: str, queues: int) -> None:
        """Note how many queues a worker has that has come."""
        self._given[name] = queues

    def forget(self, name: str) -> None:
        """Forget a worker that has ended."""
        self._given.pop(name, None)

    def answer(self, link: WorkerLink, wanted: int, now: float) -> None:
        """Send a worker the queues that it lacks of the `wanted`; errors are logged."""
        if link.spec is None or link.name not in self._given:
            return
        try:
            while self._given[link.name] < min(wanted, link.spec.queues):
                if not self._give(link, self._given[link.name], now):
                    return
                self._given[link.name] += 1
        except TapError as error:
            vlog.warn(f"{link.name}: no further queue of its tap: {error}")

    def _give(self, link: WorkerLink, index: int, now: float) -> bool:
        queue = self._taps.open_further(link.name)
        try:
            return link.send(GiveQueue(index), now, (queue,))
        finally:
            os.close(queue)
