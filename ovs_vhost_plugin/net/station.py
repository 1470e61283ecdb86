# SPDX-License-Identifier: Apache-2.0
"""A station: a MAC in a VLAN, and the IP addresses that its owner has there."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

MAX_VLAN = 4094
"""IEEE 802.1Q, 9.6: 4095 is reserved."""


@dataclass(frozen=True, slots=True)
class Station:
    """One MAC in one VLAN.

    vlan    the 802.1Q tag of the guest's own frames, 0 for frames without one
    ipv4    4-byte addresses, ipv6 16-byte ones
    router  the guest forwards IPv6: an advertisement that hid it would make hosts forget their
            default router (RFC 4861, 7.2.5)
    """

    mac: bytes
    vlan: int = 0
    ipv4: tuple[bytes, ...] = ()
    ipv6: tuple[bytes, ...] = ()
    router: bool = False


def is_unicast(mac: bytes) -> bool:
    """Whether `mac` is the address of one station: 6 bytes, not zero, no group's (IEEE 802)."""
    return len(mac) == 6 and any(mac) and not mac[0] & 1


def is_host(ip: bytes, size: int) -> bool:
    """Whether `ip`, to be of `size` bytes, is an address that one host on a link may have."""
    if len(ip) != size:
        return False
    address = ipaddress.ip_address(ip)
    return not (
        address.is_multicast
        or address.is_unspecified
        or address.is_loopback
        or address == ipaddress.IPv4Address("255.255.255.255")
    )
