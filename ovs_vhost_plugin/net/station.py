# SPDX-License-Identifier: Apache-2.0
"""Stations: a MAC in a VLAN, and the IP addresses that it is known by. Pure.

A station's key is the same in all processes. Between daemon and worker it is written as text, by
`encode` and `decode` and nowhere else.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from ovs_vhost_plugin.net.ethernet import ETH_ALEN, ETH_HLEN, VID, is_group, tag_of

MAX_VLAN = 4094
"""IEEE 802.1Q, 9.6: 4095 is reserved."""
MAX_IPS = 8  # of one station and family

_ENCODED = re.compile(r"([0-9a-f]{12})\.([0-9]{1,4})", re.ASCII)


class StationKey(NamedTuple):
    """A MAC, 6 bytes, and the VLAN ID of its frames' tag: 0 without a tag."""

    mac: bytes
    vlan: int

    def encode(self) -> str:
        """The key as text: "525400123456.10"."""
        return f"{self.mac.hex()}.{self.vlan}"

    @classmethod
    def decode(cls, text: object) -> StationKey:
        """Read what `encode` has written. Raises ValueError."""
        found = _ENCODED.fullmatch(text) if isinstance(text, str) else None
        if found is None or int(found[2]) > VID:
            raise ValueError("no key of a station")
        return cls(bytes.fromhex(found[1]), int(found[2]))


def receiver_of(frame: bytes) -> StationKey | None:
    """The station that a frame is for; None for a group address or half a header."""
    if len(frame) < ETH_HLEN or is_group(frame):
        return None
    return StationKey(frame[:ETH_ALEN], tag_of(frame))


def sender_of(frame: bytes) -> StationKey:
    """The station that a frame with a whole header is from."""
    return StationKey(frame[ETH_ALEN : 2 * ETH_ALEN], tag_of(frame))


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

    @property
    def key(self) -> StationKey:
        """Its MAC and VLAN."""
        return StationKey(self.mac, self.vlan)

    def with_ips(self, ipv4: tuple[bytes, ...], ipv6: tuple[bytes, ...]) -> Station:
        """The station with more addresses behind those it has, MAX_IPS of each family at most."""
        return replace(self, ipv4=_united(self.ipv4, ipv4), ipv6=_united(self.ipv6, ipv6))


def merge(stations: Iterable[Station]) -> tuple[Station, ...]:
    """One station for each MAC and VLAN, with all its IPs, in the order of their first mention."""
    merged: dict[StationKey, Station] = {}
    for one in stations:
        had = merged.get(one.key, Station(one.mac, one.vlan))
        both = had.with_ips(one.ipv4, one.ipv6)
        merged[one.key] = replace(both, router=one.router or had.router)
    return tuple(merged.values())


def without(stations: Iterable[Station], keys: Collection[StationKey]) -> tuple[Station, ...]:
    """The stations whose key is not among `keys`."""
    return tuple(one for one in stations if one.key not in keys)


def is_unicast(mac: bytes) -> bool:
    """Whether `mac` is the address of one station: 6 bytes, not zero, no group's (IEEE 802)."""
    return len(mac) == ETH_ALEN and any(mac) and not is_group(mac)


def is_host(ip: bytes, size: int) -> bool:
    """Whether `ip`, to be of `size` bytes, is an address that one host on a link may have."""
    if len(ip) != size:
        return False
    address = ipaddress.IPv4Address(ip) if size == 4 else ipaddress.IPv6Address(ip)
    return not (
        address.is_multicast
        or address.is_unspecified
        or address.is_loopback
        or address == ipaddress.IPv4Address("255.255.255.255")
    )


def _united(had: tuple[bytes, ...], more: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(had + more))[:MAX_IPS]
