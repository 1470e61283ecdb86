# SPDX-License-Identifier: Apache-2.0
"""What a port may announce of what its peers say that its guest uses. Pure.

SEND_RARP, the device state and what was learned from frames are claims: a front-end makes them, a
guest, or a worker that one of them has taken over. An announcement goes through the bridge's flow
table, which lets it do what the guest itself might do, so a claim may be announced by default. It
may not where rows say better:

- with `attached-mac`, the port announces no other MAC but those of `vhost-user-addresses`;
- with `output=normal`, which goes past the flow table, it announces what rows give, and no more:
  no other MAC, no other VLAN and no other IP address.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ovs_vhost_plugin.daemon.guests.places import given_to
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import ADDRESSES_KEY, PortSpec
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station, merge
from ovs_vhost_plugin.openflow.wire import Output


class NotGiven(StrEnum):
    """What rows would have to give for a claim to be announced."""

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
    """Stations that may be announced, what rows give first, and those that may not, and why."""

    allowed: tuple[Station, ...]
    refused: tuple[tuple[Station, NotGiven], ...] = ()


def sort_out(
    port: PortSpec, place: Location, claims: Iterable[Station], by_hand: bytes | None = None
) -> Sorted:
    """Tell what `port` may announce; `by_hand` is a MAC that the administrator gives it now."""
    given = given_to(port) if by_hand is None else merge((*given_to(port), Station(by_hand)))
    past_the_table = port.announce.output is Output.NORMAL
    allowed, refused = list(given), []
    for claim in claims:
        name = None
        if past_the_table:
            name = _lacking(claim, given, place)
        elif port.attached_mac and all(claim.mac != one.mac for one in given):
            name = NotGiven.MAC
        if name is not None:
            refused.append((claim, name))
        elif not past_the_table:
            allowed.append(claim)
    return Sorted(merge(allowed), tuple(refused))


def _lacking(claim: Station, given: Sequence[Station], place: Location) -> NotGiven | None:
    """The first thing of a claim that rows do not give; None if they give all of it."""
    if all(claim.mac != one.mac for one in given):
        return NotGiven.MAC
    vlan = place.vlan.vlan_of(claim.vlan)
    if vlan is None or not place.gives(given, claim.mac, vlan):
        return NotGiven.VLAN
    same = [one for one in given if one.key == claim.key]
    ips = {ip for one in same for ip in one.ipv4 + one.ipv6}
    return None if ips.issuperset(claim.ipv4 + claim.ipv6) else NotGiven.IP
