# SPDX-License-Identifier: Apache-2.0
"""VLANs of a frame that goes from one port of a bridge to another past the bridge's own hands.

A packet-out to a port sends the frame as it is: the tag that the learning switch would take off or
put on is ours to mind. Modes as in ovs-vswitchd.conf.db(5), Port, "VLAN Configuration".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

_ADDRESSES = 12
_ETHERNET = 14
TPID = b"\x81\x00"  # IEEE 802.1Q
_VID = 0xFFF


class VlanMode(StrEnum):
    """Port.vlan_mode."""

    ACCESS = "access"
    TRUNK = "trunk"
    NATIVE_TAGGED = "native-tagged"
    NATIVE_UNTAGGED = "native-untagged"
    DOT1Q_TUNNEL = "dot1q-tunnel"


@dataclass(frozen=True, slots=True)
class PortVlan:
    """How a port treats VLANs. `tag` is the access or native VLAN, 0 for none.

    bond  more than one interface: only the switch knows which of them sends
    """

    mode: VlanMode = VlanMode.TRUNK
    tag: int = 0
    bond: bool = False


def tag_of(frame: bytes) -> int:
    """The VLAN ID that a frame says itself, 0 without one."""
    tagged = frame[_ADDRESSES:_ETHERNET] == TPID and len(frame) >= _ETHERNET + 4
    return int.from_bytes(frame[14:16], "big") & _VID if tagged else 0


def vlan_of(tag: int, port: PortVlan) -> int | None:
    """The VLAN of a frame that left on `port` with `tag`; None: not to be told."""
    match port.mode:
        case VlanMode.ACCESS:
            return port.tag if tag == 0 else None
        case VlanMode.NATIVE_UNTAGGED:
            return tag or port.tag
        case VlanMode.DOT1Q_TUNNEL:
            return None
    return tag


def dress(frame: bytes, vlan: int, port: PortVlan) -> bytes | None:
    """The frame as it leaves on `port` in `vlan`; None if it would not. Its priority stays.

    For a bond it is dressed as in VLAN `vlan` of a trunk: the switch goes on from there.
    """
    match port.mode:
        case _ if port.bond:
            tagged = vlan != 0
        case VlanMode.ACCESS:
            if vlan != port.tag:
                return None
            tagged = False
        case VlanMode.NATIVE_UNTAGGED:
            tagged = vlan != port.tag
        case VlanMode.DOT1Q_TUNNEL:
            return None
        case _:
            tagged = vlan != 0
    priority, rest = 0, frame[_ADDRESSES:]
    if rest[:2] == TPID and len(frame) >= _ETHERNET + 4:
        priority, rest = int.from_bytes(rest[2:4], "big") & ~_VID, rest[4:]
    head = TPID + (priority | vlan).to_bytes(2, "big") if tagged else b""
    return frame[:_ADDRESSES] + head + rest
