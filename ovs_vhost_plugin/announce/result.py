# SPDX-License-Identifier: Apache-2.0
"""The outcome of an announcement, for the log, the row and programs.

Times are CLOCK_MONOTONIC seconds, so that what the workers saw, what was sent and what was learned
stand on one time line; a reader who wants wall-clock time adds `time.time() - time.monotonic()`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ovs_vhost_plugin.net.location import Location


class Outcome(StrEnum):
    """The outcome of an announcement."""

    LEARNED = "learned"  # it got through, and the bridge sends to the port what is for the MAC
    NOT_LEARNED = "not-learned"  # sent, or tried, in vain
    ISOLATED = "isolated"  # the port's network keeps what it sends from everybody
    ACTIVE = "active"  # OVN takes what comes from the port
    BLOCKED = "blocked"  # OVN drops it: activation-strategy still waits
    INJECTED = "injected"  # written into the tap, as OpenFlow was refused; not confirmed
    REFUSED = "refused"  # by us (MAC, flood) or by the switch (OFPT_ERROR)
    WITHDRAWN = "withdrawn"  # the guest stopped before it was done


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of an announcement.

    `vlan` is the tag of the frames, 0 for none; `frames` how many each attempt sent. `requests`
    counts the requests that it answered. `sent_at` is the first packet-out, and `learned_at` the
    moment the switch's answer with the MAC on the port (or with the port active) had been read: it
    was so at that time or before. `confirmed_by` is "fdb" (the MAC table) or "flow" (a trace).
    """

    port: str
    mac: bytes
    vlan: int
    trigger: str
    outcome: Outcome
    reason: str
    requests: int
    attempts: int
    frames: int
    confirmed_by: str
    location: Location | None
    received_at: float
    sent_at: float | None
    learned_at: float | None

    @property
    def milliseconds(self) -> float | None:
        """From the request to the confirmation, None if never confirmed."""
        return None if self.learned_at is None else (self.learned_at - self.received_at) * 1e3

    def summary(self) -> str:
        """One line for external_ids:vhost-user-announced and the log."""
        words = [self.mac.hex(":"), *([f"vlan {self.vlan}"] if self.vlan else [])]
        words.append(self.outcome.value)
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
            "vlan": self.vlan,
            "trigger": self.trigger,
            "outcome": self.outcome.value,
            "reason": self.reason,
            "requests": self.requests,
            "attempts": self.attempts,
            "frames": self.frames,
            "confirmed_by": self.confirmed_by,
            "bridge": place.bridge if place else None,
            "ofport": place.ofport if place else None,
            "tag": (place.vlan.tag or None) if place else None,
            "received_at": self.received_at,
            "sent_at": self.sent_at,
            "learned_at": self.learned_at,
            "milliseconds": self.milliseconds,
        }
