# SPDX-License-Identifier: Apache-2.0
"""The head of an Ethernet frame: its two addresses, a VLAN tag, its EtherType. Pure."""

from __future__ import annotations

from enum import StrEnum

from ovs_vhost_plugin.common.named import NamedError

ETH_ALEN = 6
ADDRESSES = 2 * ETH_ALEN
"""Bytes of the destination and the source with which a frame begins."""
ETH_HLEN = ADDRESSES + 2
TAG = 4
"""Bytes of a VLAN tag: its TPID, then priority, DEI and VLAN ID (IEEE 802.1Q, 9.3)."""
C_TAG, S_TAG = b"\x81\x00", b"\x88\xa8"
"""IEEE 802.1Q, table 9-1: TPIDs of a customer's and of a service's VLAN tag."""
TPIDS = (C_TAG, S_TAG)
PRIORITY, VID = 0xF000, 0x0FFF
"""Masks of a tag's second half."""
IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"
"""EtherTypes (RFC 894, RFC 2464)."""


class MacErrorName(StrEnum):
    """Why six bytes are not the address of one station."""

    LENGTH = "mac-length"
    ZERO = "mac-zero"
    MULTICAST = "mac-multicast"


class MacError(NamedError):
    """An address is not that of one station."""


def check_mac(mac: bytes) -> None:
    """Raise MacError unless `mac` is the address of one station."""
    if len(mac) != ETH_ALEN:
        raise MacError(MacErrorName.LENGTH)
    if not any(mac):
        raise MacError(MacErrorName.ZERO)
    if is_group(mac):
        raise MacError(MacErrorName.MULTICAST)


def is_group(mac: bytes) -> bool:
    """Whether an address is of a group: multicast or broadcast."""
    return bool(mac[0] & 1)


def is_tagged(frame: bytes) -> bool:
    """Whether a frame has a whole VLAN tag."""
    return frame[ADDRESSES:ETH_HLEN] in TPIDS and len(frame) >= ETH_HLEN + TAG


def tag_of(frame: bytes) -> int:
    """The VLAN ID in a frame's outer tag, 0 without a tag."""
    return int.from_bytes(frame[14:16], "big") & VID if is_tagged(frame) else 0


def ethertype_of(frame: bytes) -> bytes:
    """The two bytes of a frame's EtherType, behind one tag at most."""
    return frame[16:18] if is_tagged(frame) else frame[ADDRESSES:ETH_HLEN]


def tagged(frame: bytes, vlan: int) -> bytes:
    """The frame with an 802.1Q tag of priority 0; unchanged for VLAN 0."""
    if vlan == 0:
        return frame
    return frame[:ADDRESSES] + C_TAG + vlan.to_bytes(2, "big") + frame[ADDRESSES:]
