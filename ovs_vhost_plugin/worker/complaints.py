# SPDX-License-Identifier: Apache-2.0
"""The mistakes of peers: counted by name, and the last one, which the daemon publishes."""

from __future__ import annotations

from collections import Counter

from ovs_vhost_plugin.vhost.errors import PeerError


class Complaints:
    """The errors of one port's peers.

    counts  the number of errors by name
    last    the error to publish; None: it was mended, or there was none
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.last: PeerError | None = None
        self._lasting: PeerError | None = None

    def note(self, error: PeerError) -> None:
        """Count a peer's error."""
        self.counts[error.name] += 1
        # Only its words: a traceback would keep frames, and the mappings in them, alive.
        self.last = PeerError(error.name, error.detail)

    def mended(self) -> None:
        """Publish no mistake any more: the last one is over."""
        self.last = None

    def judge(self, error: PeerError | None) -> None:
        """Note a lasting error once, and end it when `error` is None."""
        before, self._lasting = self._lasting, error
        if error is not None and error is not before:
            self.note(error)
        elif error is None and before is not None and self._last_is(before.name):
            self.mended()

    def _last_is(self, name: str) -> bool:
        return self.last is not None and self.last.name == name
