# SPDX-License-Identifier: Apache-2.0
"""Finds guests that were to announce themselves and do not (policy `guest-silent`).

A guest that has negotiated VIRTIO_NET_F_GUEST_ANNOUNCE and hangs, or is too old to keep its word,
says nothing, and the front-end sends no SEND_RARP for it. Whether it has spoken is what the worker
counts: it is asked once, when the time is up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ovs_vhost_plugin.ipc.commands import Command, GetStats


@dataclass(frozen=True, slots=True)
class _Watch:
    sent: int
    due_at: float
    request: int = 0  # the question to the worker, once it was put


class Silence:
    """The ports that are listened to. Times are told."""

    def __init__(self, tell: Callable[[str, Command, float], bool]) -> None:
        self._tell = tell
        self._watches: dict[str, _Watch] = {}
        self._last_id = 0

    def watch(self, name: str, sent: int, due_at: float) -> None:
        """Look at `due_at` whether the guest has sent more than `sent` frames."""
        self._watches[name] = _Watch(sent, due_at)

    def cancel(self, name: str) -> None:
        """Do not look."""
        self._watches.pop(name, None)

    def run(self, now: float) -> None:
        """Ask the workers whose guests' time is up."""
        for name, watch in list(self._watches.items()):
            if watch.request or now < watch.due_at:
                continue
            self._last_id -= 1  # below zero: the ids of `vhost/stats` are above
            self._watches[name] = _Watch(watch.sent, watch.due_at, self._last_id)
            if not self._tell(name, GetStats(self._last_id), now):
                self.cancel(name)

    def answered(self, name: str, request: int, stats: dict[str, Any]) -> bool:
        """Whether this is the answer of a port's worker that its guest was silent."""
        watch = self._watches.get(name)
        if watch is None or not watch.request or request != watch.request:
            return False
        self.cancel(name)
        return _sent(stats) == watch.sent

    def wake_at(self) -> float | None:
        """When `run` is due, None for never."""
        due = (watch.due_at for watch in self._watches.values() if not watch.request)
        return min(due, default=None)


def _sent(stats: dict[str, Any]) -> int:
    pairs = stats.get("queue_pairs") or []
    counts = [one.get("tx_packets") for one in pairs if isinstance(one, dict)]
    return sum(count for count in counts if isinstance(count, int))
