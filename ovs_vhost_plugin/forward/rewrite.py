# SPDX-License-Identifier: Apache-2.0
"""Rewrites a held frame: the port that it goes to, its sender, its VLAN tag. Sans-IO.

The frame comes from a worker, which a guest may have taken over, and it does not pass the pipeline
again. So it goes only to an address of the guest's (`MacTracker.new_ports`), and it shows nobody a
sender for which the bridge does not vouch:

- A frame from a group address is refused, and one from the guest itself: the bridge would not have
  brought it here.
- An IP packet goes on in a frame of the host's own, as from a router. Its receiver does not mind,
  and the switches behind the bridge do not learn that its sender is on this host. They would send
  the guest's answers here, where they are lost.
- Receivers of other protocols may mind. Their frames keep a source that the bridge has learned in
  that VLAN on a third port, neither here nor where the frame goes: then all switches that see the
  frame have the sender in this direction already. From any other source, such as one that the
  bridge has forgotten, they go as the host's own too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ovs_vhost_plugin.net.ethernet import IPV4, IPV6, ethertype_of, tag_of
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station, StationKey
from ovs_vhost_plugin.net.vlan import ALL_VLANS, PortVlan, retag
from ovs_vhost_plugin.openflow.wire import LONGEST_FRAME, Addressed, Output
from ovs_vhost_plugin.vswitchd import fdb

SENDERS = 32
"""Senders that are looked up in one table, which may be long; more go as the host's own."""

_SHORTEST_FRAME = 14


class Unfit(StrEnum):
    """The reasons why a frame that a worker hands over goes nowhere."""

    MALFORMED = "malformed"  # no Ethernet frame, or longer than a packet-out takes
    TO_STRANGER = "to-stranger"  # to a group, or to an address that is not known to have moved
    TO_NO_VLAN = "to-no-vlan"  # the port where the address is does not carry its VLAN
    FROM_GROUP = "from-group"
    FROM_GUEST = "from-guest"  # an address of the guest's own, or one behind its port
    FROM_NOBODY = "from-nobody"  # the host has no address to send it in the name of


@dataclass(frozen=True, slots=True)
class Rows:
    """The MACs of the database, as seen from one port.

    given   the guest's own, as `external_ids` name them
    others  MACs that are given to other ports of the bridge, and not to this: these ports' numbers
    own     the host's on this bridge
    """

    given: tuple[Station, ...] = ()
    others: Mapping[bytes, Collection[int]] = field(default_factory=dict)
    own: bytes | None = None


class Senders:
    """The ports of senders by one answer of `fdb/show`; each sender is looked up once."""

    def __init__(self, table: str, ofports: Collection[int]) -> None:
        """`ofports` are those that the guest leaves; `here` is what the table has there."""
        self.here = fdb.on_port(table, ofports)
        self._table = table
        self._found: dict[tuple[bytes, int], int | str | None] = {}

    def port_of(self, mac: bytes, vlan: int) -> int | str | None:
        """The port on which the bridge has `mac`; None: not known, or too many were asked for."""
        key = mac, vlan
        if key not in self._found and len(self._found) < SENDERS:
            entries = fdb.entries_of(self._table, mac)
            self._found[key] = next((one.port for one in entries if one.vlan == vlan), None)
        return self._found.get(key)


def rewrite(
    frame: bytes,
    new_ports: Mapping[StationKey, int],
    senders: Senders,
    place: Location,
    vlans: Mapping[int, PortVlan],
    rows: Rows,
) -> Addressed | Unfit:
    """The frame as it goes on, and its port; or the reason why it goes nowhere.

    new_ports  the ports of the guest's stations, by the tag of the frames
    place      where the guest was
    vlans      how the bridge's ports treat VLANs, by OpenFlow number
    """
    if not _SHORTEST_FRAME <= len(frame) <= LONGEST_FRAME - 4:
        return Unfit.MALFORMED
    tag = tag_of(frame)
    port = new_ports.get(StationKey(frame[:6], tag))
    vlan = place.vlan.egress_vlan_of(tag)
    if port is None or vlan is None:
        return Unfit.TO_STRANGER
    source = frame[6:12]
    if source[0] & 1:
        return Unfit.FROM_GROUP
    if place.gives(rows.given, source, vlan) or (source, vlan) in senders.here:
        return Unfit.FROM_GUEST
    if rows.own is None:
        if not _vouched(source, vlan, port, senders, rows):
            return Unfit.FROM_NOBODY
    elif ethertype_of(frame) in (IPV4, IPV6) or not _vouched(source, vlan, port, senders, rows):
        frame = frame[:6] + rows.own + frame[12:]
    target = vlans.get(port, ALL_VLANS)
    retagged = retag(frame, place.vlan, target)
    if retagged is None:
        return Unfit.TO_NO_VLAN
    # Of a bond's members only one may send, and the switch knows which.
    return retagged, Output.NORMAL if target.bond else port


def _vouched(source: bytes, vlan: int, target: int, senders: Senders, rows: Rows) -> bool:
    """Whether a switch that sees `source` come from the bridge to `target` learns the truth."""
    port = senders.port_of(source, vlan)
    if port is None or port == target:
        return False
    return source not in rows.others or port in rows.others[source]
