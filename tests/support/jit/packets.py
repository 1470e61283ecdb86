# SPDX-License-Identifier: Apache-2.0
"""Frames as a guest hands them over, decoded and verified by dpkt."""

from __future__ import annotations

import struct
from typing import Any

import dpkt
import numpy as np

SOURCE, TARGET = b"\x02\x00\x00\x00\x00\x01", b"\x02\x00\x00\x00\x00\x02"


TCPV4, UDP, TCPV6, UDP_L4 = 1, 3, 4, 5


FIN, SYN, PSH, ACK, CWR = 0x01, 0x02, 0x08, 0x10, 0x80


TAGS = {0: b"", 1: b"\x81\x00\x00\x07", 2: b"\x88\xa8\x00\x09\x81\x00\x00\x07"}


def ones_complement(data: bytes) -> int:
    """RFC 1071 as it says: 0xffff over data with its right checksum in place."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def header(
    flags: int = 1, gso: int = 0, size: int = 0, start: int = 0, offset: int = 0, hdr: int = 0
) -> Any:
    raw = struct.pack("<BBHHHHH", flags, gso, hdr, size, start, offset, 0)
    return np.frombuffer(raw, np.uint8).copy()


class Packet:
    """A frame as a guest hands it over: the checksum field holds the pseudo header's sum."""

    def __init__(
        self, version: int, protocol: str, payload: bytes, *, tags: int = 0, flags: int = ACK,
        options: bytes = b"", extension: bytes = b"", ip_id: int = 0, seq: int = 0,
    ) -> None:  # fmt: skip
        if protocol == "tcp":
            l4 = struct.pack(
                ">HHIIBBHHH", 1000, 2000, seq, 7, (20 + len(options)) // 4 << 4, flags, 512, 0, 0
            )
            l4 += options
            number, self.offset = 6, 16
        else:
            l4 = struct.pack(">HHHH", 1000, 2000, 8 + len(payload), 0)
            number, self.offset = 17, 6
        body = l4 + payload
        if version == 4:
            addresses = bytes([10, 0, 0, 1, 10, 0, 0, 2])
            ip = struct.pack(
                ">BBHHHBBH", 0x45, 0, (20 + len(body)) & 0xFFFF, ip_id, 0x4000, 64, number, 0
            )
            ip += addresses
            ip = ip[:10] + struct.pack(">H", ones_complement(ip) ^ 0xFFFF) + ip[12:]
            kind = b"\x08\x00"
        else:
            addresses = bytes(range(32))
            following = 0 if extension else number
            ip = struct.pack(">IHBB", 6 << 28, (len(extension) + len(body)) & 0xFFFF, following, 64)
            ip += addresses
            if extension:
                ip += bytes([number]) + extension[1:]
            kind = b"\x86\xdd"
        ethernet = TARGET + SOURCE + TAGS[tags] + kind
        self.start = len(ethernet) + len(ip)
        self.headers = self.start + len(l4)
        pseudo = ones_complement(addresses + struct.pack(">II", len(body), number))
        at = self.offset
        body = body[:at] + struct.pack(">H", pseudo) + body[at + 2 :]
        self.frame = np.frombuffer(ethernet + ip + body, np.uint8).copy()
        self.gso = UDP_L4 if protocol == "udp" else {4: TCPV4, 6: TCPV6}[version]


def verified(frame: bytes) -> Any:
    """What dpkt makes of the frame, once its checksums are right."""
    ethernet = dpkt.ethernet.Ethernet(frame)
    ip = ethernet.data
    if isinstance(ip, dpkt.ip.IP):
        assert ones_complement(frame[-len(ip) :][:20]) == 0xFFFF
        assert len(ip) == ip.len
        pseudo = ip.src + ip.dst
    else:
        assert ip.plen == len(ip) - 40
        pseudo = ip.src + ip.dst
    transport = frame[-len(bytes(ip.data)) :]
    number = 6 if isinstance(ip.data, dpkt.tcp.TCP) else 17
    assert (
        ones_complement(pseudo + struct.pack(">II", len(transport), number) + transport) == 0xFFFF
    )
    if number == 17:
        assert ip.data.ulen == len(transport)
    return ip
