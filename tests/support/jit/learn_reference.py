# SPDX-License-Identifier: Apache-2.0
"""Frames to learn from, and what should be learned from them, in plain, slow Python.

Written from the RFCs and from what the tables are to hold; shares no code with the kernels.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

Ip = IPv4Address | IPv6Address

PLACES, IPS_EACH, AGE_MS = 64, 8, 300_000
BROADCAST = b"\xff" * 6


def mac(number: int) -> bytes:
    return (0x5254_0000_0000 + number).to_bytes(6, "big")


def ethernet(source: bytes, kind: int, payload: bytes, *tags: int) -> bytes:
    """A frame; `tags`: outermost first, an odd place is 802.1Q, the first of two 802.1ad."""
    head = BROADCAST + source
    for place, tag in enumerate(tags):
        head += struct.pack("!HH", 0x88A8 if place < len(tags) - 1 else 0x8100, tag)
    return head + struct.pack("!H", kind) + payload


def arp(sender: bytes, ip: Ip, operation: int = 1, start: str = "000108000604") -> bytes:
    return bytes.fromhex(start) + struct.pack("!H6s4s10x", operation, sender, ip.packed)


def ipv4(ip: Ip) -> bytes:
    return struct.pack("!BxHxxxxBBxx4s4s", 0x45, 20, 64, 17, ip.packed, bytes(4))


def ipv6(ip: Ip, following: int = 17, hops: int = 64, payload: bytes = b"") -> bytes:
    return struct.pack("!IHBB16s16x", 6 << 28, len(payload), following, hops, ip.packed) + payload


def discovery(ip: Ip, kind: int = 136, hops: int = 255, flags: int = 0x20) -> bytes:
    return ipv6(ip, 58, hops, struct.pack("!BxxxB3x16s", kind, flags, ip.packed))


@dataclass
class Known:
    key: tuple[bytes, int]
    seen: int
    router: bool = False
    ips: list[tuple[Ip, int]] = field(default_factory=list)


@dataclass
class Reference:
    known: list[Known] = field(default_factory=list)
    replaced: int = 0

    def learn(self, frame: bytes, now: int) -> None:
        source, kind, vlan, payload = frame[6:12], frame[12:14], 0, frame[14:]
        if kind in (b"\x81\x00", b"\x88\xa8") and len(payload) >= 4:
            vlan = int.from_bytes(payload[:2], "big") % 4096
            kind, payload = payload[2:4], payload[4:]
        if source[0] % 2 or not any(source) or vlan == 4095:
            return
        station = self._station((source, vlan), now)
        ip, claimed, router = _said(kind, payload, source)
        if router is not None:
            station.router = router
        if ip is not None:
            self._keep(station, ip, claimed, now)

    def visible(self, now: int) -> dict[tuple[bytes, int], tuple[int, bool, dict[Ip, int]]]:
        return {
            one.key: (
                one.seen,
                one.router,
                {ip: seen for ip, seen in one.ips if now - seen <= AGE_MS},
            )
            for one in self.known
            if now - one.seen <= AGE_MS
        }

    def _station(self, key: tuple[bytes, int], now: int) -> Known:
        for one in self.known:
            if one.key == key:
                one.seen = now
                return one
        one = Known(key, now)
        if len(self.known) < PLACES:
            self.known.append(one)
        else:
            place = min(range(PLACES), key=lambda i: self.known[i].seen)
            self.replaced += now - self.known[place].seen <= AGE_MS
            self.known[place] = one
        return one

    def _keep(self, station: Known, ip: Ip, claimed: bool, now: int) -> None:
        for place, (had, seen) in enumerate(station.ips):
            if had == ip:
                if claimed or now - seen <= AGE_MS:
                    station.ips[place] = (ip, now)
                return
        if not claimed:
            return
        if len(station.ips) < IPS_EACH:
            station.ips.append((ip, now))
        else:
            place = min(range(IPS_EACH), key=lambda i: station.ips[i][1])
            self.replaced += now - station.ips[place][1] <= AGE_MS
            station.ips[place] = (ip, now)


def _said(kind: bytes, packet: bytes, source: bytes) -> tuple[Ip | None, bool, bool | None]:
    """The address a packet is from, if a host's; whether it claims it; what it says of routing."""
    if kind == b"\x08\x00" and len(packet) >= 20:
        return _host(IPv4Address(packet[12:16])), False, None
    if kind == b"\x08\x06" and len(packet) >= 28 and packet[:6].hex() == "000108000604":
        return (_host(IPv4Address(packet[14:18])) if packet[8:14] == source else None), True, None
    if kind == b"\x86\xdd" and len(packet) >= 40:
        ip = _host(IPv6Address(packet[8:24]))
        if packet[6:8] == b"\x3a\xff" and len(packet) >= 45:
            message, flags = packet[40], packet[44]
            router = {136: flags >= 0x80, 134: True}.get(message)
            return ip, message in (134, 135, 136), router
        return ip, False, None
    return None, False, None


def _host(ip: Ip) -> Ip | None:
    if isinstance(ip, IPv4Address):
        return ip if ip.packed[0] not in (0, 127) and ip.packed[0] < 224 else None
    return None if ip.is_multicast or int(ip) >> 64 == 0 else ip
