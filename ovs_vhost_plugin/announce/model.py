# SPDX-License-Identifier: Apache-2.0
"""The values that enter and leave the announcer: where a port is, and what came of a request.

Times are CLOCK_MONOTONIC seconds, so that what the workers saw, what was sent and what was learned
stand on one time line; a reader who wants wall-clock time adds `time.time() - time.monotonic()`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from ovs_vhost_plugin.net.station import MAX_VLAN


@dataclass(frozen=True, slots=True)
class Location:
    """Where a port sits in the switch.

    `ofport` is its OpenFlow number, below 1 while ovs-vswitchd has not assigned one. `tag` is the
    VLAN an untagged frame from the port belongs to, None for none. `mgmt_path` is the bridge's
    OpenFlow management socket. `vlan_mode`, `trunks` and `cvlans` are the columns of the Port row.
    `ovn`: ovn-controller has bound the port, so the flows are its own and learn nothing. `members`
    are the OpenFlow numbers of the bond that it is in, which to the switch are one place, `mates`
    those of them that are ports of ours, `slb` says that this is in mode balance-slb. `hindered`:
    why the bridge passes nothing of the port yet.
    """

    bridge: str
    ofport: int
    tag: int | None
    mgmt_path: str
    vlan_mode: str = ""
    trunks: tuple[int, ...] = ()
    ovn: bool = False
    cvlans: tuple[int, ...] = ()
    members: tuple[int, ...] = ()
    mates: tuple[int, ...] = ()
    slb: bool = False
    hindered: str = ""

    @property
    def numbers(self) -> frozenset[int]:
        """The OpenFlow numbers by which the switch may call this place."""
        return frozenset({self.ofport, *self.members})

    def member(self, attempt: int) -> Location:
        """The place as an attempt uses it: a bond takes broadcasts by its active member alone."""
        others = [number for number in self.mates if number != self.ofport]
        return replace(self, ofport=(self.ofport, *others)[attempt % (len(others) + 1)])

    @property
    def isolated(self) -> bool:
        """Whether the port carries no VLAN but 4095: automation has not wired it yet."""
        vlans = {self.tag} if self.is_access else {*self.trunks, self.tag} if self.trunks else {0}
        return all(vlan is None or vlan > MAX_VLAN for vlan in vlans)

    @property
    def is_access(self) -> bool:
        """Whether the port carries one VLAN (ovs-vswitchd.conf.db(5), Port: vlan_mode)."""
        return self.tag is not None and self.vlan_mode in ("", "access")

    @property
    def is_tunnel(self) -> bool:
        """Whether what the guest tags is inside another VLAN for the bridge (IEEE 802.1Q, 15)."""
        return self.tag is not None and self.vlan_mode == "dot1q-tunnel"

    @property
    def listed(self) -> tuple[int, ...]:
        """The tags of the guest's own frames that the Port row lists."""
        if self.is_access:
            return ()
        return self.cvlans if self.is_tunnel else self.trunks

    def carries(self, vlan: int) -> bool:
        """Whether the bridge takes a frame with this 802.1Q tag, 0 for none, from the port."""
        if self.is_access:
            return vlan == 0
        if self.is_tunnel:
            return not self.cvlans or vlan in self.cvlans
        inner = self.vlan_of(vlan)
        return not self.trunks or inner in self.trunks or inner == self.tag

    def moved_to(self, other: Location) -> bool:
        """Whether the switch has to learn anew at `other` what it knew here.

        What was announced before OVN bound the port was lost, and activation-strategy waits.
        """
        if other.ovn and not self.ovn:
            return True
        if other.ofport > 0 and self.ofport > 0 and other.ofport != self.ofport:
            return True
        vlans, others = ((one.tag, one.vlan_mode, one.trunks, one.cvlans) for one in (self, other))
        return self.bridge != other.bridge or vlans != others

    def vlan_of(self, vlan: int) -> int:
        """In which VLAN the bridge learns the source of such a frame."""
        if vlan == 0 or self.is_tunnel:
            return self.tag or 0
        return vlan


class Outcome(StrEnum):
    """How an announcement ended."""

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
    """What came of an announcement.

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
            "tag": place.tag if place else None,
            "received_at": self.received_at,
            "sent_at": self.sent_at,
            "learned_at": self.learned_at,
            "milliseconds": self.milliseconds,
        }
