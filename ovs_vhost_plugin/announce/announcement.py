# SPDX-License-Identifier: Apache-2.0
"""One announcement: what was asked for, how far it is, when the next attempt is due."""

from __future__ import annotations

from dataclasses import dataclass

from ovs_vhost_plugin.announce.model import Location, Outcome, Result

DEADLINE = 10.0  # for the whole announcement: an ovs-vswitchd may be restarting; seconds
BACKOFF = (0.002, 0.02, 0.2, 0.5)  # before the second, third, ... attempt; seconds
MAX_ATTEMPTS = 1 + len(BACKOFF)


@dataclass(frozen=True, slots=True)
class Request:
    """Somebody wants `mac` announced on `port`; `trigger` says who, in a word."""

    port: str
    mac: bytes
    trigger: str
    received_at: float


class Announcement:
    """The state of one announcement of `request`, begun at `now`.

    `waiting` is True before an attempt and False from its packet-out to the switch's answer.
    `outcome` and `reason` are what the result will be if nothing better follows.
    """

    def __init__(self, request: Request, now: float, requests: int = 1) -> None:
        self.request = request
        self.requests = requests
        self.waiting = True
        self.deadline = now + DEADLINE
        self.due_at = now
        self.attempts = 0
        self.outcome = Outcome.NOT_LEARNED
        self.reason = ""
        self.location: Location | None = None
        self.sent_at: float | None = None
        self.learned_at: float | None = None
        self.successor: Request | None = None
        self.successor_requests = 0

    def join(self, request: Request) -> bool:
        """Take one more request; True if a frame that is to be sent anyhow will answer it."""
        if self.waiting:
            self.requests += 1
            return True
        # the frame on its way was sent before the request came: another has to follow
        self.successor_requests += 1
        if self.successor is not None:
            return True
        self.successor = request
        return False

    def sent(self, location: Location, now: float) -> None:
        """Note an attempt."""
        self.waiting = False
        self.attempts += 1
        self.location = location
        self.sent_at = now if self.sent_at is None else self.sent_at

    def learned(self, now: float) -> None:
        """Note that the bridge has the MAC on the port."""
        self.learned_at = now
        self.outcome = Outcome.LEARNED
        self.reason = ""

    def retry(self, outcome: Outcome, reason: str, now: float) -> bool:
        """Note that an attempt was in vain; False if it was the last."""
        self.outcome = outcome
        self.reason = reason
        if self.attempts == MAX_ATTEMPTS:
            return False
        self.waiting = True
        self.due_at = now + BACKOFF[self.attempts - 1]
        return True

    def result(self) -> Result:
        """Return what came of it, as things stand."""
        return Result(
            port=self.request.port,
            mac=self.request.mac,
            trigger=self.request.trigger,
            outcome=self.outcome,
            reason=self.reason,
            requests=self.requests,
            attempts=self.attempts,
            location=self.location,
            received_at=self.request.received_at,
            sent_at=self.sent_at,
            learned_at=self.learned_at,
        )
