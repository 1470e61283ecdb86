# SPDX-License-Identifier: Apache-2.0
"""A minimal network stack: answers ARP and ping for one IPv4 address (RFC 826, RFC 792)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

BROADCAST = b"\xff" * 6
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ETHERTYPE_IPV4, _ETHERTYPE_ARP = b"\x08\x00", b"\x08\x06"
_REQUEST, _REPLY = 1, 2
_ICMP = 1
_FRAGMENT = 0x3FFF  # more fragments, or an offset: fragments are not reassembled here


@dataclass(frozen=True, slots=True)
class Responder:
    """Answers for `address` at `mac`."""

    mac: bytes
    address: IPv4Address

    def answer(self, frame: bytes) -> bytes | None:
        """The answer to a frame, or None if the frame asks nothing of this guest."""
        if frame[6:12] == self.mac:
            return None  # its own, flooded back
        if frame[12:14] == _ETHERTYPE_ARP and len(frame) >= 14 + _ARP.size:
            return self._answer_arp(frame)
        if frame[12:14] == _ETHERTYPE_IPV4 and frame[:6] == self.mac:
            return self._answer_ping(frame)
        return None

    def announcement(self) -> bytes:
        """A gratuitous ARP request, as a guest with GUEST_ANNOUNCE sends after a migration."""
        address = self.address.packed
        return self._arp(BROADCAST, _REQUEST, address, b"\0" * 6, address)

    def _answer_arp(self, frame: bytes) -> bytes | None:
        *_, operation, asker_mac, asker, _, target = _ARP.unpack_from(frame, 14)
        if operation != _REQUEST or target != self.address.packed:
            return None
        return self._arp(asker_mac, _REPLY, target, asker_mac, asker)

    def _arp(self, to: bytes, operation: int, source: bytes, mac: bytes, target: bytes) -> bytes:
        body = _ARP.pack(1, 0x0800, 6, 4, operation, self.mac, source, mac, target)
        return (to + self.mac + _ETHERTYPE_ARP + body).ljust(60, b"\0")

    def _answer_ping(self, frame: bytes) -> bytes | None:
        """An echo reply: addresses swapped, type 8 becomes 0, the ICMP checksum anew."""
        header = 4 * (frame[14] & 15) if len(frame) > 34 else 0
        packet = bytearray(frame[14 : 14 + int.from_bytes(frame[16:18])])
        if len(packet) < header + 8 or header < 20 or packet[9] != _ICMP or packet[header] != 8:
            return None
        if packet[16:20] != self.address.packed or int.from_bytes(packet[6:8]) & _FRAGMENT:
            return None
        packet[12:20] = packet[16:20] + packet[12:16]
        packet[header] = 0
        packet[header + 2 : header + 4] = b"\0\0"
        packet[header + 2 : header + 4] = checksum(packet[header:]).to_bytes(2)
        return (frame[6:12] + self.mac + _ETHERTYPE_IPV4 + packet).ljust(60, b"\0")


def checksum(data: bytes | bytearray) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = bytes(data) + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
