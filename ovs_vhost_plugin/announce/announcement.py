# SPDX-License-Identifier: Apache-2.0
"""One announcement: its request, its progress, when the next attempt is due. Told the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ovs_vhost_plugin.announce.policy import DEFAULT, Policy
from ovs_vhost_plugin.announce.result import Outcome, Result
from ovs_vhost_plugin.net.ethernet import ethertype_of
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station
from ovs_vhost_plugin.openflow.wire import Output

DEADLINE = 10.0  # for the whole announcement: an ovs-vswitchd may be restarting; seconds
PAUSES = (0.002, 0.02, 0.2, 0.5)  # before the second, third, ... attempt; seconds
MAX_ATTEMPTS = 1 + len(PAUSES)
SLB_LOCK = 5.0
"""Seconds in which a bridge believes no bond in balance-slb of a MAC whose gratuitous ARP came by
another port (MAC_GRAT_ARP_LOCK_TIME in Open vSwitch's lib/mac-learning.h)."""
SLB_PAUSES = (*PAUSES, SLB_LOCK, *PAUSES)
SETTLES_WITHIN = 0.2  # a bridge that learns first that its guest is back (`returns.py`); seconds
INJECT_AFTER = 0.02  # seconds that a bridge may take to answer OpenFlow before the tap must do
INJECT_PAUSES = (0.02, 0.2, 0.6, 1.0)  # a warm flow hides a frame until the revalidator: 0.5 s
MAX_INJECTIONS = 1 + len(INJECT_PAUSES)


@dataclass(frozen=True, slots=True)
class Request:
    """A request to announce `station` on `port`; `trigger` is the reason, in a word."""

    port: str
    station: Station
    trigger: str
    received_at: float
    policy: Policy = DEFAULT


class Announcement:
    """The state of one announcement of `request`, begun at `now`.

    `waiting` is True before an attempt and False from its packet-out to the switch's answer.
    `outcome` and `reason` are those of the result, if nothing better follows.
    """

    def __init__(self, request: Request, now: float, requests: int = 1) -> None:
        self.request = request
        self.requests = requests
        self.waiting = True
        self.deadline = now + DEADLINE
        self.due_at = now
        self.inject_at = now + INJECT_AFTER
        self.attempts = 0
        self.injections = 0
        self.injecting = False  # the last attempt was by the tap
        self.injected = False  # and some attempt of this kind succeeded
        self.refused = False  # by the switch, in answer to a packet-out
        self.obstacle = ""  # why the tap is used
        self.frames = 0
        self.samples: tuple[bytes, ...] = ()  # one frame of each kind that an attempt sends
        self.format_error = ""
        self.confirmed_by = ""
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
            # the frames are still to be made: of what is known now
            self.request = replace(self.request, station=request.station, policy=request.policy)
            return True
        # the frame on its way was sent before the request came: another has to follow
        self.successor_requests += 1
        had, self.successor = self.successor, request
        if had is None:
            return False
        self.successor = replace(request, trigger=had.trigger, received_at=had.received_at)
        return True

    def settles(self, now: float) -> None:
        """Wait, for a time, until its own bridge sends to the port."""
        self.due_at = now + SETTLES_WITHIN

    def settled(self, now: float) -> None:
        """Note that its own bridge does so by now, as far as it can be told."""
        if not self.attempts:
            self.due_at = now

    def hinder(self, obstacle: str) -> None:
        """Note why the bridge takes no packet-out."""
        self.obstacle = obstacle
        if not self.injected:
            self.reason = obstacle

    def sent(
        self, location: Location, frames: Sequence[bytes], now: float, *, injected: bool
    ) -> None:
        """Note an attempt: by packet-out, or written into the port's tap."""
        self.waiting = False
        self.attempts += 1
        self.injections += injected
        self.injecting = injected
        self.frames = len(frames)
        self.samples = tuple({ethertype_of(frame): frame for frame in reversed(frames)}.values())[
            ::-1
        ]
        self.location = location
        self.sent_at = now if self.sent_at is None else self.sent_at

    @property
    def past_the_table(self) -> bool:
        """Whether the last attempt went past the bridge's flows."""
        return self.request.policy.output is Output.NORMAL and not self.injecting

    def confirmed(self, outcome: Outcome, by: str, now: float) -> None:
        """Note that the switch has the station on the port: LEARNED, or with OVN ACTIVE."""
        self.learned_at = now
        self.outcome = outcome
        self.reason = f"injected, {self.obstacle}" if self.injecting else self.format_error
        self.confirmed_by = by

    def retry(self, outcome: Outcome, reason: str, now: float) -> bool:
        """Note that an attempt was in vain; False if it was the last."""
        self.outcome = outcome
        self.reason = reason
        if self.injecting:
            last = self.injections >= MAX_INJECTIONS
            self.outcome = Outcome.INJECTED if self.injected else Outcome.NOT_LEARNED
            self.reason = f"{self.obstacle}; {reason}"
            if last and self.refused:
                return False
            # a bridge that could not be reached may come back: until the deadline
            self.due_at = now if last else now + INJECT_PAUSES[self.injections - 1]
        else:
            if outcome is Outcome.REFUSED:
                self.refused, self.obstacle = True, reason
            slb = self.location is not None and self.location.slb
            pauses, made = SLB_PAUSES if slb else PAUSES, self.attempts - self.injections
            if made > len(pauses):
                return False
            self.due_at = now + pauses[made - 1]
        self.waiting = True
        return True

    def result(self) -> Result:
        """Return the result, as things stand."""
        return Result(
            port=self.request.port,
            mac=self.request.station.mac,
            vlan=self.request.station.vlan,
            trigger=self.request.trigger,
            outcome=self.outcome,
            reason=self.reason,
            requests=self.requests,
            attempts=self.attempts,
            frames=self.frames,
            confirmed_by=self.confirmed_by,
            location=self.location,
            received_at=self.request.received_at,
            sent_at=self.sent_at,
            learned_at=self.learned_at,
        )
