# SPDX-License-Identifier: Apache-2.0
"""Queries by which a guest that has moved tells a snooping bridge of its multicast groups. Pure.

A bridge with multicast snooping sends a group only to ports that have reported it, and where a
guest turns up nobody has, until the next querier asks. So the guest itself is asked: a general
query goes to its port and no further, and its answer teaches the bridge as any report does. Nothing
has to be learned or kept for that, and the guest knows best.

The queries are those of the newest versions, which hosts of the older ones take as theirs, with no
values of their own for the guest to adopt. IGMP's is of no querier's address (RFC 4541, 2.1.1).
"""

from __future__ import annotations

import struct

from ovs_vhost_plugin.announce.frames.announcements import (
    ALL_NODES,
    ALL_NODES_MAC,
    ETH_P_IP,
    ETH_P_IPV6,
    ETH_ZLEN,
    ICMPV6,
    checksum,
)
from ovs_vhost_plugin.net.ethernet import tagged

RESPONSE = 0.1
"""Seconds in which the guest is to answer."""

_IGMP, _QUERY_IGMP, _QUERY_MLD = 2, 0x11, 130
_ALL_SYSTEMS, _ALL_SYSTEMS_MAC = bytes([224, 0, 0, 1]), bytes.fromhex("01005e000001")
_ROUTER_ALERT = bytes.fromhex("94040000")  # RFC 2113
_HOP_BY_HOP = bytes([ICMPV6, 0]) + bytes.fromhex("050200000100")  # RFC 2711, and two bytes of pad


def queries(mac: bytes, vlan: int) -> tuple[bytes, bytes]:
    """General queries of IGMPv3 and MLDv2 from the host `mac`, with the guest's tag."""
    return tagged(_igmp(mac), vlan), tagged(_mld(mac), vlan)


def _igmp(mac: bytes) -> bytes:
    def message(total: int) -> bytes:
        # RFC 3376, 4.1: the time in tenths of a second; group, robustness, interval, sources: none
        return struct.pack("!BBH8x", _QUERY_IGMP, round(RESPONSE * 10), total)

    def header(total: int) -> bytes:
        # RFC 791: six words, class CS6 (RFC 2236, 9), TTL 1
        fields = (0x46, 0xC0, 24 + 12, 0, 0, 1, _IGMP, total, bytes(4), _ALL_SYSTEMS)
        return struct.pack("!BBHHHBBH4s4s", *fields) + _ROUTER_ALERT

    packet = header(checksum(header(0))) + message(checksum(message(0)))
    return (_ALL_SYSTEMS_MAC + mac + ETH_P_IP.to_bytes(2, "big") + packet).ljust(ETH_ZLEN, b"\0")


def _mld(mac: bytes) -> bytes:
    # RFC 4291, appendix A: link-local, as RFC 3810, 5.1.14 wants the source
    source = b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]

    def message(total: int) -> bytes:
        # RFC 3810, 5.1: the time in milliseconds; the rest as above
        return struct.pack("!BBHH22x", _QUERY_MLD, 0, total, round(RESPONSE * 1000))

    pseudo = source + ALL_NODES + struct.pack("!II", 28, ICMPV6)
    payload = _HOP_BY_HOP + message(checksum(pseudo + message(0)))
    header = struct.pack("!IHBB16s16s", 6 << 28, len(payload), 0, 1, source, ALL_NODES)
    return ALL_NODES_MAC + mac + ETH_P_IPV6.to_bytes(2, "big") + header + payload
