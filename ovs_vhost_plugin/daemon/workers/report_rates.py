# SPDX-License-Identifier: Apache-2.0
"""How often a worker may report what, and how much. Pure; it is told the time.

A worker limits itself to half of these rates (`worker/daemonlink.py`), whatever its guest and its
front-end do. So one that exceeds them is not ours any more, and its port alone pays for it: each
report costs the daemon, which serves all ports, a look at it, and many a line of the log or a
transaction of the database.
"""

from collections import Counter

from ovs_vhost_plugin.common.ratelimit import TokenBucket
from ovs_vhost_plugin.daemon.workers.reports import ReportError
from ovs_vhost_plugin.ipc.channel import MAX_PACKET

RATES = {
    # kind of report: how many a second, how many at once
    "state": (4.0, 40),
    "started": (20.0, 80),
    "rarp": (20.0, 40),
    "addresses": (10.0, 40),
    "holding": (10.0, 40),
    "connect": (20.0, 40),
    "userfaultfd": (2.0, 10),
}
BYTES_PER_SECOND, BYTES_AT_ONCE = 128 * 1024, 2 * 1024 * 1024
"""Of all reports that were not asked for."""

_ANSWERS = {"stats": "stats", "held": "release"}
"""Reports that answer a command, which it is."""
_MOST_ASKED = 64


class ReportRates:
    """The rates of one worker, from when a daemon is connected to it."""

    def __init__(self, now: float) -> None:
        self._buckets = {kind: TokenBucket(*rate, now) for kind, rate in RATES.items()}
        self._bytes = TokenBucket(BYTES_PER_SECOND, BYTES_AT_ONCE, now)
        self._asked: Counter[str] = Counter()
        self._greeted = False

    def told(self, command: str) -> None:
        """The worker was told a command: it may answer that."""
        if command in _ANSWERS.values():
            self._asked[command] = min(self._asked[command] + 1, _MOST_ASKED)

    def require(self, kind: object, size: int, now: float) -> None:
        """Raise ReportError if a report of `kind` with `size` bytes is one too many.

        What is no kind is for `reports.parse` to refuse.
        """
        if not isinstance(kind, str):
            kind = ""  # what is a list of JSON's cannot even be looked up
        if kind in _ANSWERS:
            command = _ANSWERS[kind]
            if not self._asked[command]:
                raise ReportError(f"{kind}: nobody asked")
            self._asked[command] -= 1
            return
        if kind == "hello":
            if self._greeted:
                raise ReportError("a second hello")
            self._greeted = True
        elif kind in self._buckets and not self._buckets[kind].take(now):
            raise ReportError(f"a flood of reports: {kind}")
        if not self._bytes.take(now, min(size, MAX_PACKET)):
            raise ReportError("a flood of reports: bytes")
