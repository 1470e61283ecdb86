# SPDX-License-Identifier: Apache-2.0
"""VLANs of a frame that goes from one port of a bridge to another past the bridge's own hands.

A packet-out to a port sends the frame as it is: the tag that the learning switch would take off or
put on is ours to mind. Modes as in ovs-vswitchd.conf.db(5), Port, "VLAN Configuration".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ovs_vhost_plugin.net.ethernet import (
    ADDRESSES,
    C_TAG,
    PRIORITY,
    S_TAG,
    TAG,
    is_tagged,
    tag_of,
)


class VlanMode(StrEnum):
    """Port.vlan_mode."""

    ACCESS = "access"
    TRUNK = "trunk"
    NATIVE_TAGGED = "native-tagged"
    NATIVE_UNTAGGED = "native-untagged"
    DOT1Q_TUNNEL = "dot1q-tunnel"


@dataclass(frozen=True, slots=True)
class PortVlan:
    """How a port treats VLANs. `tag` is the access, native or service VLAN, 0 for none.

    bond    more than one interface: only the switch knows which of them sends
    cvlans  the customer VLANs that a tunnel takes, 0 for no tag; empty: all
    tpid    how a tunnel's service tag begins
    """

    mode: VlanMode = VlanMode.TRUNK
    tag: int = 0
    bond: bool = False
    cvlans: frozenset[int] = frozenset()
    tpid: bytes = S_TAG

    def takes(self, tag: int) -> bool:
        """Whether a tunnel takes frames that have this tag already, 0 for none."""
        return not self.cvlans or tag in self.cvlans


def vlan_of(tag: int, port: PortVlan) -> int | None:
    """The VLAN of a frame that left on `port` with `tag`; None: not to be told."""
    match port.mode:
        case VlanMode.ACCESS:
            return port.tag if tag == 0 else None
        case VlanMode.NATIVE_UNTAGGED:
            return tag or port.tag
        case VlanMode.DOT1Q_TUNNEL:
            return port.tag if port.takes(tag) else None
    return tag


def carry(frame: bytes, origin: PortVlan, port: PortVlan) -> bytes | None:
    """A frame that left on `origin` as it leaves on `port`; None if it would not.

    Its priority stays. For a bond it is dressed as for a trunk: the switch goes on from there.
    """
    vlan = vlan_of(tag_of(frame), origin)
    if vlan is None:
        return None
    if port.bond:
        port = PortVlan()
    tpid, priority, rest = C_TAG, 0, frame[ADDRESSES:]
    if is_tagged(frame):
        tpid, priority = rest[:2], int.from_bytes(rest[2:4], "big") & PRIORITY
    if origin.mode is VlanMode.DOT1Q_TUNNEL and port.mode is not VlanMode.ACCESS:
        # What it says itself is the customer's. An access port takes that off as well.
        tpid = origin.tpid
    elif is_tagged(frame):
        rest = rest[TAG:]
    inner = frame[:ADDRESSES] + rest
    if not _leaves(vlan, tag_of(inner), port):
        return None
    if not _shows(vlan, port):
        return inner
    return frame[:ADDRESSES] + tpid + (priority | vlan).to_bytes(2, "big") + rest


def enter(frame: bytes, vlan: int, port: PortVlan) -> bytes | None:
    """A frame without a tag as it has to come in by `port` to be in `vlan`; None: it cannot be."""
    tag = vlan if _shows(vlan, port) else 0
    if port.mode is VlanMode.DOT1Q_TUNNEL and port.cvlans:
        tag = min(port.cvlans)
    if vlan_of(tag, port) != vlan:
        return None
    head = C_TAG + tag.to_bytes(2, "big") if tag else b""
    return frame[:ADDRESSES] + head + frame[ADDRESSES:]


def _leaves(vlan: int, inner: int, port: PortVlan) -> bool:
    """Whether a frame in `vlan`, with the tag `inner` besides, may leave on `port`."""
    match port.mode:
        case VlanMode.ACCESS:
            return vlan == port.tag
        case VlanMode.DOT1Q_TUNNEL:
            return vlan == port.tag and port.takes(inner)
    return True


def _shows(vlan: int, port: PortVlan) -> bool:
    """Whether frames in `vlan` have its tag on `port`."""
    match port.mode:
        case VlanMode.ACCESS | VlanMode.DOT1Q_TUNNEL:
            return False
        case VlanMode.NATIVE_UNTAGGED:
            return vlan != port.tag
    return vlan != 0
