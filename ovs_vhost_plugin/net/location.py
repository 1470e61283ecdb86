# SPDX-License-Identifier: Apache-2.0
"""A port's place in the switch: its bridge, its OpenFlow number, its VLANs. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ovs_vhost_plugin.net.station import Station
from ovs_vhost_plugin.net.vlan import ALL_VLANS, PortVlan


@dataclass(frozen=True, slots=True)
class Location:
    """A port's place in the switch.

    ofport     its OpenFlow number, below 1 while ovs-vswitchd has not assigned one
    mgmt_path  the bridge's OpenFlow management socket
    vlan       how it treats VLANs
    ovn        ovn-controller has bound the port, so the flows are its own and learn nothing
    members    the OpenFlow numbers of the bond that it is in: to the switch they are one place
    mates      those of them that are ports of ours
    slb        that bond is in mode balance-slb
    hindered   why the bridge passes nothing of the port yet (spanning tree), "" if it does
    """

    bridge: str
    ofport: int
    mgmt_path: str
    vlan: PortVlan = ALL_VLANS
    ovn: bool = False
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

    def moved_to(self, other: Location) -> bool:
        """Whether the switch has to learn anew at `other` what it knew here.

        What was announced before OVN bound the port was lost, and activation-strategy waits.
        """
        if other.ovn and not self.ovn:
            return True
        if other.ofport > 0 and self.ofport > 0 and other.ofport != self.ofport:
            return True
        return (self.bridge, self.vlan) != (other.bridge, other.vlan)

    def gives(self, given: Iterable[Station], mac: bytes, vlan: int) -> bool:
        """Whether `given` says that `mac` in the bridge's `vlan` is the guest's here.

        A MAC given without a tag is in the port's own VLAN and in all that the port lists.
        """
        listed = bool(vlan) and vlan in self.vlan.listed and not self.vlan.is_tunnel
        return any(
            one.mac == mac and (self.vlan.vlan_of(one.vlan) == vlan or (listed and one.vlan == 0))
            for one in given
        )
