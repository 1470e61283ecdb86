# SPDX-License-Identifier: Apache-2.0
"""Asks the daemon for further queues of the tap, which a worker cannot open.

A worker is born with queue 0. A front-end may use 128 pairs and most use one, and each queue costs
memory of the kernel, and a wait for all processors when it is detached.
"""

from __future__ import annotations

from ovs_vhost_plugin.ipc.reports import AskQueues
from ovs_vhost_plugin.worker.outbox import Outbox

_AGAIN = 1.0
"""Seconds until what has not come is asked for again: the daemon could not open it."""


class QueueRequests:
    """The number of queues that the front-end's pairs need, as asked of the daemon."""

    def __init__(self, outbox: Outbox, have: int = 1) -> None:
        self._outbox = outbox
        self._have = self._wanted = have
        self._ask_at = 0.0

    @property
    def have(self) -> int:
        """The number of queues that are here."""
        return self._have

    def want(self, queues: int) -> None:
        """Ask for so many queues in all."""
        if queues > self._wanted:
            self._wanted, self._ask_at = queues, 0.0

    def came(self) -> None:
        """Note that one more queue is here."""
        self._have += 1

    def handle_timer(self, now: float) -> None:
        """Ask when it is time."""
        if self._missing() and now >= self._ask_at and self._outbox.tell(AskQueues(self._wanted)):
            self._ask_at = now + _AGAIN

    def get_timer(self) -> float | None:
        """The time to ask; None while there is nothing to ask for, or nobody to ask."""
        return self._ask_at if self._missing() and self._outbox.is_open else None

    def _missing(self) -> bool:
        return self._have < self._wanted
