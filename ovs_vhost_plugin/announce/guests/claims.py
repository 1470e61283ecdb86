# SPDX-License-Identifier: Apache-2.0
"""Decides which claims of a guest's addresses its port may announce. Pure.

SEND_RARP, the device state and what was learned from frames are claims: a front-end makes them, a
guest, or a worker that one of them has taken over. An announcement goes through the bridge's flow
table, which lets it do what the guest itself might do, so a claim may be announced by default. It
may not where rows say better:

- with `attached-mac`, the port announces no other MAC but those of `vhost-user-addresses`;
- with `output=normal`, which goes past the flow table, it announces what rows give, and no more:
  no other MAC, no other VLAN and no other IP address.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from ovs_vhost_plugin.announce.addresses import ADDRESSES_KEY
from ovs_vhost_plugin.announce.guests.port import GuestPort
from ovs_vhost_plugin.net.station import Station, merge
from ovs_vhost_plugin.openflow.wire import Output


class NotGiven(StrEnum):
    """The part of a claim that rows would have to give for it to be announced."""

    MAC = "mac-not-given"
    VLAN = "vlan-not-given"
    IP = "ip-not-given"

    @property
    def advice(self) -> str:
        """The name, and what to do."""
        return f"{self}: if it is the guest's, add it to external_ids:{ADDRESSES_KEY}"


NOT_GIVEN = frozenset(name.value for name in NotGiven)


@dataclass(frozen=True, slots=True)
class Sorted:
    """Stations that may be announced, those of rows first, and those that may not, and why."""

    allowed: tuple[Station, ...]
    refused: tuple[tuple[Station, NotGiven], ...] = ()


def sort_out(port: GuestPort, claims: Iterable[Station], by_hand: bytes | None = None) -> Sorted:
    """Tell what `port` may announce; `by_hand` is a MAC that the administrator gives it now."""
    given = port.given if by_hand is None else merge((*port.given, Station(by_hand)))
    past_the_table = port.policy.output is Output.NORMAL
    allowed, refused = list(given), []
    for claim in claims:
        lacking = None
        if past_the_table:
            lacking = _lacking(claim, given, port)
        elif port.attached and all(claim.mac != one.mac for one in given):
            lacking = NotGiven.MAC
        if lacking is not None:
            refused.append((claim, lacking))
        elif not past_the_table:
            allowed.append(claim)
    return Sorted(merge(allowed), tuple(refused))


def macs_of(port: GuestPort | None, claims: Iterable[Station]) -> frozenset[bytes]:
    """The MACs that `port` may announce; none without a row."""
    return frozenset(() if port is None else (one.mac for one in sort_out(port, claims).allowed))


def _lacking(claim: Station, given: tuple[Station, ...], port: GuestPort) -> NotGiven | None:
    """The first part of a claim that rows do not give; None if they give all of it."""
    if all(claim.mac != one.mac for one in given):
        return NotGiven.MAC
    vlan = port.location.vlan.vlan_of(claim.vlan)
    if vlan is None or not port.location.gives(given, claim.mac, vlan):
        return NotGiven.VLAN
    same = [one for one in given if one.key == claim.key]
    ips = {ip for one in same for ip in one.ipv4 + one.ipv6}
    return None if ips.issuperset(claim.ipv4 + claim.ipv6) else NotGiven.IP
