# SPDX-License-Identifier: Apache-2.0
"""How a port of a bridge treats VLANs: which it carries, and how frames look on it. Pure.

Modes as in ovs-vswitchd.conf.db(5), Port, "VLAN Configuration". A packet-out to a port sends the
frame as it is. So a frame that goes from one port to another past the learning switch is given the
tag here that the switch would have given it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from ovs_vhost_plugin.net.ethernet import ADDRESSES, C_TAG, PRIORITY, S_TAG, TAG, is_tagged, tag_of
from ovs_vhost_plugin.net.station import MAX_VLAN


class VlanMode(StrEnum):
    """Port.vlan_mode."""

    ACCESS = "access"
    TRUNK = "trunk"
    NATIVE_TAGGED = "native-tagged"
    NATIVE_UNTAGGED = "native-untagged"
    DOT1Q_TUNNEL = "dot1q-tunnel"


@dataclass(frozen=True, slots=True)
class PortVlan:
    """The VLANs of a port. A tag is a frame's VLAN ID, 0 for no tag.

    tag     the access, native or service VLAN, 0 for none
    trunks  the VLANs that a trunk or native port carries; empty: all
    cvlans  the customer VLANs that a tunnel takes, 0 for no tag; empty: all
    tpid    the TPID of a tunnel's service tag
    bond    more than one interface: only the switch knows which of them sends
    """

    mode: VlanMode = VlanMode.TRUNK
    tag: int = 0
    trunks: frozenset[int] = frozenset()
    cvlans: frozenset[int] = frozenset()
    tpid: bytes = S_TAG
    bond: bool = False

    def carries(self, tag: int) -> bool:
        """Whether the bridge takes a frame with `tag` from the port."""
        match self.mode:
            case VlanMode.ACCESS:
                return tag == 0
            case VlanMode.TRUNK | VlanMode.NATIVE_TAGGED | VlanMode.NATIVE_UNTAGGED:
                return self._trunks(tag or self.tag)
            case VlanMode.DOT1Q_TUNNEL:
                return self._takes_customer(tag)
            case _:
                assert_never(self.mode)

    def vlan_of(self, tag: int) -> int | None:
        """The VLAN of a frame that comes in with `tag`, where its source is learned; None: dropped.

        A tunnel's is the service VLAN, whatever the customer tags.
        """
        if not self.carries(tag):
            return None
        return self.tag if self.is_tunnel else tag or self.tag

    def egress_vlan_of(self, tag: int) -> int | None:
        """The VLAN of a frame that left on the port with `tag`; None if none leaves like that.

        Unlike a frame that comes in: a native-tagged port tags its native VLAN too.
        """
        if self.mode is VlanMode.NATIVE_TAGGED and tag == 0:
            return 0 if self._trunks(0) else None
        return self.vlan_of(tag)

    @property
    def is_tunnel(self) -> bool:
        """Whether a guest's own tag is inside another VLAN for the bridge (IEEE 802.1Q, 15)."""
        return self.mode is VlanMode.DOT1Q_TUNNEL

    @property
    def listed(self) -> tuple[int, ...]:
        """The tags of the guest's own frames that the Port row lists, in order."""
        match self.mode:
            case VlanMode.ACCESS:
                return ()
            case VlanMode.TRUNK | VlanMode.NATIVE_TAGGED | VlanMode.NATIVE_UNTAGGED:
                return tuple(sorted(self.trunks))
            case VlanMode.DOT1Q_TUNNEL:
                return tuple(sorted(self.cvlans))
            case _:
                assert_never(self.mode)

    @property
    def isolated(self) -> bool:
        """Whether the port carries no VLAN but 4095: automation has not wired it yet."""
        match self.mode:
            case VlanMode.ACCESS | VlanMode.DOT1Q_TUNNEL:
                return self.tag > MAX_VLAN
            case VlanMode.TRUNK | VlanMode.NATIVE_TAGGED | VlanMode.NATIVE_UNTAGGED:
                native = self.mode is not VlanMode.TRUNK
                vlans = self.trunks | {self.tag} if native and self.trunks else self.trunks
                return bool(vlans) and all(vlan > MAX_VLAN for vlan in vlans)
            case _:
                assert_never(self.mode)

    def sends(self, vlan: int, inner: int) -> bool:
        """Whether a frame in `vlan` that has the tag `inner` besides may leave on the port."""
        match self.mode:
            case VlanMode.ACCESS:
                return vlan == self.tag
            case VlanMode.TRUNK | VlanMode.NATIVE_TAGGED | VlanMode.NATIVE_UNTAGGED:
                return self._trunks(vlan)
            case VlanMode.DOT1Q_TUNNEL:
                return vlan == self.tag and self._takes_customer(inner)
            case _:
                assert_never(self.mode)

    def shows(self, vlan: int) -> bool:
        """Whether frames in `vlan` have its tag on the port."""
        match self.mode:
            case VlanMode.ACCESS | VlanMode.DOT1Q_TUNNEL:
                return False
            case VlanMode.NATIVE_UNTAGGED:
                return vlan != self.tag
            case VlanMode.TRUNK | VlanMode.NATIVE_TAGGED:
                return vlan != 0
            case _:
                assert_never(self.mode)

    def _trunks(self, vlan: int) -> bool:
        native = self.mode is not VlanMode.TRUNK and vlan == self.tag
        return native or not self.trunks or vlan in self.trunks

    def _takes_customer(self, tag: int) -> bool:
        return not self.cvlans or tag in self.cvlans


ALL_VLANS = PortVlan()
"""A trunk of all VLANs: a port of whose VLANs its row says nothing."""


def retag(frame: bytes, origin: PortVlan, port: PortVlan) -> bytes | None:
    """A frame that left on `origin` as it leaves on `port`; None if it would not.

    Its priority stays. For a bond it is tagged as for a trunk: the switch goes on from there.
    """
    vlan = origin.egress_vlan_of(tag_of(frame))
    if vlan is None:
        return None
    if port.bond:
        port = ALL_VLANS
    tpid, priority, rest = C_TAG, 0, frame[ADDRESSES:]
    if is_tagged(frame):
        tpid, priority = rest[:2], int.from_bytes(rest[2:4], "big") & PRIORITY
    if origin.is_tunnel and port.mode is not VlanMode.ACCESS:
        # The tag in the frame is the customer's. An access port takes that off as well.
        tpid = origin.tpid
    elif is_tagged(frame):
        rest = rest[TAG:]
    inner = frame[:ADDRESSES] + rest
    if not port.sends(vlan, tag_of(inner)):
        return None
    if not port.shows(vlan):
        return inner
    return frame[:ADDRESSES] + tpid + (priority | vlan).to_bytes(2, "big") + rest


def ingress_frame(frame: bytes, vlan: int, port: PortVlan) -> bytes | None:
    """An untagged frame with the tag by which it comes in by `port` in `vlan`; None: it cannot."""
    tag = vlan if port.shows(vlan) else 0
    if port.is_tunnel and port.cvlans:
        tag = min(port.cvlans)
    if port.vlan_of(tag) != vlan:
        return None
    head = C_TAG + tag.to_bytes(2, "big") if tag else b""
    return frame[:ADDRESSES] + head + frame[ADDRESSES:]
