# SPDX-License-Identifier: Apache-2.0
"""Where a port sits in the switch: its bridge, its OpenFlow number, its VLANs. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ovs_vhost_plugin.net.station import MAX_VLAN, Station


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

    def gives(self, given: Iterable[Station], mac: bytes, vlan: int) -> bool:
        """Whether `given` says that `mac` in the bridge's `vlan` is the guest's here.

        A MAC given without a tag is in the port's own VLAN and in all that the port lists.
        """
        listed = bool(vlan) and vlan in self.listed and not self.is_tunnel
        return any(
            one.mac == mac and (self.vlan_of(one.vlan) == vlan or (listed and one.vlan == 0))
            for one in given
        )
