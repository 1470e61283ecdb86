# SPDX-License-Identifier: Apache-2.0
"""The rates and sizes of reports that a worker may send. Pure; time is an argument.

A worker limits itself to half of these rates (`worker/outbox.py`), whatever its guest and its
front-end do. So a worker that exceeds them is not ours any more, and its port alone pays for that.
Each report costs the daemon, which serves all ports, a check, and many reports cost a line of the
log or a transaction of the database.
"""

from collections import Counter

from ovs_vhost_plugin.common.ratelimit import TokenBucket
from ovs_vhost_plugin.ipc.channel import MAX_PACKET
from ovs_vhost_plugin.ipc.codec import MessageError
from ovs_vhost_plugin.ipc.commands import Command
from ovs_vhost_plugin.ipc.reports import ANSWERS, OTHERS, RATES, Report, WorkerHello

BYTES_PER_SECOND, BYTES_AT_ONCE = 128 * 1024, 2 * 1024 * 1024
"""The rate of all reports that are no answers."""

_MOST_ASKED = 64


class ReportRates:
    """The rates of one worker, from a daemon's connection on."""

    def __init__(self, now: float) -> None:
        self._buckets = {kind: TokenBucket(*rate, now) for kind, rate in RATES.items()}
        self._bytes = TokenBucket(BYTES_PER_SECOND, BYTES_AT_ONCE, now)
        self._others = TokenBucket(*OTHERS, now)
        self._asked: Counter[type[Command]] = Counter()
        self._greeted = False

    def told(self, command: type[Command]) -> None:
        """Allow the answer to a command that was sent."""
        if command in ANSWERS.values():
            self._asked[command] = min(self._asked[command] + 1, _MOST_ASKED)

    def require(self, kind: type[Report], size: int, now: float) -> None:
        """Count a report of `kind` with `size` bytes. Raises MessageError if it is one too many."""
        if kind in ANSWERS:
            command = ANSWERS[kind]
            if not self._asked[command]:
                raise MessageError(f"{kind.WIRE_NAME}: nobody asked")
            self._asked[command] -= 1
            return
        if kind is WorkerHello:
            if self._greeted:
                raise MessageError("a second hello")
            self._greeted = True
        elif not self._buckets[kind].take(now):
            raise MessageError(f"a flood of reports: {kind.WIRE_NAME}")
        self._count_bytes(size, now)

    def require_other(self, size: int, now: float) -> None:
        """Count a report of a kind that is not known here. Raises MessageError as `require`."""
        if not self._others.take(now):
            raise MessageError("a flood of reports: of unknown kinds")
        self._count_bytes(size, now)

    def _count_bytes(self, size: int, now: float) -> None:
        if not self._bytes.take(now, min(size, MAX_PACKET)):
            raise MessageError("a flood of reports: bytes")
