# SPDX-License-Identifier: Apache-2.0
"""The values that enter and leave the announcer: where a port is, and what came of a request.

Times are CLOCK_MONOTONIC seconds, so that what the workers saw, what was sent and what was learned
stand on one time line; a reader who wants wall-clock time adds `time.time() - time.monotonic()`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Location:
    """Where a port sits in the switch.

    `ofport` is its OpenFlow number, below 1 while ovs-vswitchd has not assigned one. `tag` is the
    VLAN an untagged frame from the port belongs to, None for none. `mgmt_path` is the bridge's
    OpenFlow management socket.
    """

    bridge: str
    ofport: int
    tag: int | None
    mgmt_path: str


class Outcome(StrEnum):
    """How an announcement ended."""

    LEARNED = "learned"  # the bridge's MAC table has the MAC on the port
    NOT_LEARNED = "not-learned"  # sent, or tried, in vain
    REFUSED = "refused"  # by us (MAC, flood) or by the switch (OFPT_ERROR)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of an announcement.

    `requests` counts the requests that it answered. `sent_at` is the first packet-out, and
    `learned_at` the moment the switch's answer with the MAC on the port had been read: the MAC was
    learned at that time or before.
    """

    port: str
    mac: bytes
    trigger: str
    outcome: Outcome
    reason: str
    requests: int
    attempts: int
    location: Location | None
    received_at: float
    sent_at: float | None
    learned_at: float | None

    @property
    def milliseconds(self) -> float | None:
        """From the request to the confirmation, None if not learned."""
        return None if self.learned_at is None else (self.learned_at - self.received_at) * 1e3

    def summary(self) -> str:
        """One line for external_ids:vhost-user-announced and the log."""
        words = [self.mac.hex(":"), self.outcome.value]
        if self.milliseconds is not None:
            words.append(f"{self.milliseconds:.1f}ms")
        words.append(self.trigger)
        return " ".join(words) + (f": {self.reason}" if self.reason else "")

    def as_dict(self) -> dict[str, str | int | float | None]:
        """Plain values for JSON: times in CLOCK_MONOTONIC seconds, None where it did not happen."""
        place = self.location
        return {
            "port": self.port,
            "mac": self.mac.hex(":"),
            "trigger": self.trigger,
            "outcome": self.outcome.value,
            "reason": self.reason,
            "requests": self.requests,
            "attempts": self.attempts,
            "bridge": place.bridge if place else None,
            "ofport": place.ofport if place else None,
            "tag": place.tag if place else None,
            "received_at": self.received_at,
            "sent_at": self.sent_at,
            "learned_at": self.learned_at,
            "milliseconds": self.milliseconds,
        }
