# SPDX-License-Identifier: Apache-2.0
"""Guests that come back to a bridge soon after they left it: that bridge learns first. Sans-IO.

    left ──► comes_back? ──► AskRevalidator, TellBridge ──told──► it has learned ──revalidated──┐
                   │ no                                  └─ it has not, or does not answer ─────┤
                   └────────────────────────────────────────────────────────► announced ◄───────┘

When such a guest had left, the network sent frames for it here for a moment yet, and the bridge
cached a flow that drops them, which stays for as long as 10 s (Open vSwitch's max-idle). By an
announcement the network sends here again at once, but the flow goes only as the revalidator comes
by. So the bridge is told by a traced frame, from which it learns and which it sends nowhere, and
the announcement waits for the revalidator. The wait begins before the frame: its answer is the end
of the next turn, and that turn follows at once from what the frame changes. The answer comes from
the switch's main loop, which may sleep through the end of that turn, and so is woken.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ovs_vhost_plugin.announce.actions import (
    AnnouncerAction,
    AskRevalidator,
    TellBridge,
    WakeSwitch,
)
from ovs_vhost_plugin.announce.announcement import SETTLES_WITHIN, Announcement
from ovs_vhost_plugin.announce.triggers import Trigger
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.openflow.wire import Output
from ovs_vhost_plugin.vswitchd import trace

ARRIVALS = frozenset({Trigger.SEND_RARP, Trigger.MOVED_IN})
"""Triggers of guests that come from elsewhere."""

CACHED = 15.0
"""Seconds for which a flow to a guest that has left may be there: max-idle, and half as much."""

WAKES = 0.005
"""Seconds from the question, and from one time that the switch is woken, to the next."""

MOST = 4096
"""MACs that are remembered."""


@dataclass(slots=True)
class _Left:
    """A MAC that has left a bridge, and the VLANs in which the bridge was told of it since."""

    at: float
    told: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Telling:
    """An announcement whose own bridge is told first, by `frame`."""

    announcement: Announcement
    location: Location
    frame: bytes


class Returns:
    """The MACs that have left each bridge, and the announcements whose own bridge learns first."""

    def __init__(self) -> None:
        self._left: dict[tuple[str, bytes], _Left] = {}  # the first that left is the first
        self._next: list[_Telling] = []  # to be told
        self._asked: dict[int, _Telling] = {}  # by number, until the bridge's answer is here
        self._learned: list[_Telling] = []  # and the revalidator is to come by
        self._waits = False  # for the revalidator, which has been asked
        self._number = 0
        self._wake_at = self._until = 0.0  # the switch is to be woken, and no more

    def left(self, bridge: str, macs: Iterable[bytes], now: float) -> None:
        """Note that the guest with these MACs has stopped."""
        for mac in macs:
            self._left.pop((bridge, mac), None)
            self._left[bridge, mac] = _Left(now)
        for key, left in list(self._left.items()):
            if len(self._left) <= MOST and now - left.at <= CACHED:
                break
            del self._left[key]

    def comes_back(self, announcement: Announcement, location: Location, now: float) -> bool:
        """Whether the bridge is to learn first, which is so once.

        OVN's bridge reads no MAC table, and past the bridge's flows nothing can be traced.
        """
        request = announcement.request
        past_the_table = request.policy.output is Output.NORMAL
        if request.trigger not in ARRIVALS or location.ovn or past_the_table:
            return False
        left = self._left.get((location.bridge, request.station.mac))
        if left is None or now - left.at > CACHED or request.station.vlan in left.told:
            return False
        left.told.add(request.station.vlan)
        return True

    def tell(self, announcement: Announcement, location: Location, frame: bytes) -> None:
        """Teach the bridge by `frame`; the announcement waits."""
        self._next.append(_Telling(announcement, location, frame))

    def get_timer(self) -> float | None:
        """When `actions` has something if nothing else comes; None for never."""
        return self._wake_at if self._waits and self._wake_at < self._until else None

    def actions(self, now: float) -> list[AnnouncerAction]:
        """The actions that are due: one wait for the revalidator at a time, for all that can."""
        wake_at = self.get_timer()
        if wake_at is not None and now >= wake_at:
            self._wake_at = now + WAKES
            return [WakeSwitch()]
        if self._waits or not (self._next or self._asked):
            return []
        self._waits = True
        self._wake_at, self._until = now + WAKES, now + SETTLES_WITHIN
        actions: list[AnnouncerAction] = [AskRevalidator()]
        for one in self._next:
            self._number += 1
            self._asked[self._number] = one
            flow = trace.flow_in(one.location.ofport)
            actions.append(TellBridge(self._number, one.location.bridge, flow, one.frame))
        self._next = []
        return actions

    def told(self, number: int, text: str, now: float) -> None:
        """Take the answer to a TellBridge, "" for none: what has not changed needs no wait."""
        if (one := self._asked.pop(number, None)) is None:
            return
        if trace.learned(text, one.announcement.request.station.mac):
            self._learned.append(one)
        else:
            one.announcement.settled(now)

    def revalidated(self, now: float) -> None:
        """Note that the revalidator has come by, or that nobody can tell.

        For a bridge that has not answered yet that was a turn from before it learned: another is
        waited for.
        """
        self._waits = False
        for one in self._learned:
            one.announcement.settled(now)
        self._learned = []
