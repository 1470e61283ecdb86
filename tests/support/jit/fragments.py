# SPDX-License-Identifier: Apache-2.0
"""Datagrams with options, and their fragments taken apart and put together."""

from __future__ import annotations

import struct

import numpy as np
from support.jit.packets import Packet, ones_complement

HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, UDP = 0, 43, 44, 60, 17


def large(
    version: int, payload: bytes, *, tags: int = 0, options: bytes = b"", extension: bytes = b""
) -> Packet:
    """A datagram with IPv4 options, or an IPv6 extension that ends in UDP's number."""
    packet = Packet(version, "udp", payload, tags=tags, extension=extension, ip_id=0x1234)
    if options:
        network = packet.start - 20
        frame = packet.frame.tobytes()
        ihl = bytes([0x45 + len(options) // 4])
        frame = frame[:network] + ihl + frame[network + 1 : packet.start] + options
        packet.frame = np.frombuffer(frame + packet.frame[packet.start :].tobytes(), np.uint8)
        packet.frame = packet.frame.copy()
        packet.start += len(options)
    return packet


class Cut:
    """One fragment, taken apart."""

    def __init__(self, frame: bytes, network: int) -> None:
        ip = frame[network:]
        if frame[network - 2 : network] == b"\x08\x00":
            end = (ip[0] & 15) * 4
            assert ones_complement(ip[:end]) == 0xFFFF
            assert struct.unpack_from(">H", ip, 2)[0] == len(ip)
            self.id, word = struct.unpack_from(">HH", ip, 4)
            self.offset, self.more, self.lone = (word & 0x1FFF) * 8, word >> 13 & 1, word & 0x4000
            self.headers, self.options = ip[:2] + ip[8:10] + ip[12:20], ip[20:end]
        else:
            assert struct.unpack_from(">H", ip, 4)[0] == len(ip) - 40
            end, at, following = 40, 6, ip[6]
            if following == HOP_BY_HOP:
                at, end, following = 40, 40 + 8 * (1 + ip[41]), ip[40]
            self.lone = following != FRAGMENT
            headers = bytearray(ip[:end])
            headers[4:6] = b""
            self.offset = self.more = self.id = 0
            if following == FRAGMENT:
                headers[at - 2] = ip[end]
                reserved, word, self.id = struct.unpack_from(">BHI", ip, end + 1)
                assert reserved == 0 and word & 6 == 0
                self.offset, self.more = word & 0xFFF8, word & 1
                end += 8
            self.headers, self.options = bytes(headers), b""
        self.ethernet, self.payload = frame[:network], ip[end:]


def together(cuts: list[Cut]) -> bytes:
    """Each begins where the one before ended, in units of 8, and only the last says so."""
    payload = b""
    for cut in cuts:
        assert cut.offset == len(payload)
        payload += cut.payload
    assert [cut.more for cut in cuts] == [1] * (len(cuts) - 1) + [0]
    assert all(len(cut.payload) % 8 == 0 for cut in cuts[:-1])
    return payload
