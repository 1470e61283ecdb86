# SPDX-License-Identifier: Apache-2.0
"""Finds guests that were to announce themselves and do not (policy `guest-silent`). Told the time.

A guest that has negotiated VIRTIO_NET_F_GUEST_ANNOUNCE and hangs, or is too old to keep its word,
says nothing, and the front-end sends no SEND_RARP for it. The worker counts the frames that the
guest has sent: it is asked once, when the time is up.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Watch:
    sent: int
    due_at: float
    request: int = 0  # the question to the worker, once it was put


class Silence:
    """The ports whose guests are waited for."""

    def __init__(self) -> None:
        self._watches: dict[str, _Watch] = {}
        self._last_id = 0

    def watch(self, name: str, sent: int, due_at: float) -> None:
        """Look at `due_at` whether the guest has sent more than `sent` frames."""
        self._watches[name] = _Watch(sent, due_at)

    def cancel(self, name: str) -> None:
        """Do not look."""
        self._watches.pop(name, None)

    def get_timer(self) -> float | None:
        """When `handle_timer` is due, None for never."""
        due = (watch.due_at for watch in self._watches.values() if not watch.request)
        return min(due, default=None)

    def handle_timer(self, now: float) -> list[tuple[str, int]]:
        """The ports whose workers are to be asked now, each with the id of the question."""
        asked = []
        for name, watch in self._watches.items():
            if not watch.request and now >= watch.due_at:
                self._last_id -= 1  # below zero: the ids of `vhost/stats` are above
                asked.append((name, self._last_id))
        for name, request in asked:
            watch = self._watches[name]
            self._watches[name] = _Watch(watch.sent, watch.due_at, request)
        return asked

    def answered(self, name: str, request: int, sent: int) -> bool:
        """Whether this is the answer of a port's worker that its guest was silent."""
        watch = self._watches.get(name)
        if watch is None or not watch.request or request != watch.request:
            return False
        self.cancel(name)
        return sent == watch.sent
