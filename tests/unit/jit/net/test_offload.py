# SPDX-License-Identifier: Apache-2.0
"""Checksums and segments, decoded and verified by dpkt and by a checksum written out here."""

from __future__ import annotations

import socket
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.jit.examples import examples
from support.jit.packets import (
    ACK,
    CWR,
    FIN,
    PSH,
    TCPV4,
    UDP,
    UDP_L4,
    Packet,
    header,
    ones_complement,
    verified,
)

from ovs_vhost_plugin.jit import layout
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.net.offload import (
    all_headers,
    check_header,
    finish_checksum,
    make_gso_segment,
)
from ovs_vhost_plugin.jit.result import failure


def segments(packet: Packet, size: int, ecn: int = 0) -> list[bytes]:
    net = header(1, packet.gso | ecn, size, packet.start, packet.offset, packet.headers)
    length = len(packet.frame)
    headers = all_headers(net, packet.frame, length)
    assert headers == packet.headers
    out = np.zeros(layout.HEADER_MAX + layout.FRAME_MAX, np.uint8)
    found = []
    for position in range(0, max(1, length - headers), size):
        n = make_gso_segment(net, packet.frame, headers, length - headers, position, out)
        found.append(out[layout.HEADER_MAX : layout.HEADER_MAX + n].tobytes())
    return found


@settings(deadline=None)
@given(
    version=st.sampled_from([4, 6]), protocol=st.sampled_from(["tcp", "udp"]),
    payload=st.binary(max_size=300), tags=st.integers(0, 2),
)  # fmt: skip
def test_finishes_a_partial_checksum(
    version: int, protocol: str, payload: bytes, tags: int
) -> None:
    packet = Packet(version, protocol, payload, tags=tags)
    finish_checksum(header(1, 0, 0, packet.start, packet.offset), packet.frame, len(packet.frame))
    assert bytes(verified(packet.frame.tobytes()).data.data) == payload


def test_a_udp_checksum_of_zero_is_written_as_ones() -> None:
    """0 would mean that there is none (RFC 768)."""
    packet = Packet(4, "udp", b"\0\0")
    frame = packet.frame
    rest = ones_complement(frame[packet.start :].tobytes())
    frame[-2:] = np.frombuffer(struct.pack(">H", 0xFFFF - rest), np.uint8)
    finish_checksum(header(1, 0, 0, packet.start, packet.offset), frame, len(frame))
    assert frame[packet.start + 6 : packet.start + 8].tobytes() == b"\xff\xff"


@settings(deadline=None)
@given(
    version=st.sampled_from([4, 6]), protocol=st.sampled_from(["tcp", "udp"]),
    length=st.integers(1, 5000), size=st.integers(8, 1500), tags=st.integers(0, 2),
    options=st.sampled_from([b"", b"\x01\x01\x08\x0a" + bytes(8)]),
    extension=st.sampled_from([b"", bytes([0, 0]) + bytes(6)]),
    ip_id=st.sampled_from([0, 65534]), seq=st.sampled_from([0, 0xFFFF_FFF0]),
)  # fmt: skip
def test_segments_are_right_and_make_up_the_whole(
    version: int, protocol: str, length: int, size: int, tags: int, options: bytes,
    extension: bytes, ip_id: int, seq: int,
) -> None:  # fmt: skip
    payload = bytes(i * 7 & 0xFF for i in range(length))
    packet = Packet(
        version, protocol, payload, tags=tags, options=options if protocol == "tcp" else b"",
        extension=extension, ip_id=ip_id, seq=seq, flags=ACK | PSH | FIN | CWR,
    )  # fmt: skip
    found = [verified(data) for data in segments(packet, size, 0x80 if protocol == "tcp" else 0)]
    assert b"".join(bytes(ip.data.data) for ip in found) == payload
    assert all(len(ip.data.data) == size for ip in found[:-1])
    for index, ip in enumerate(found):
        if version == 4:
            assert ip.id == (ip_id + index) & 0xFFFF
        if protocol == "tcp":
            assert ip.data.seq == (seq + index * size) & 0xFFFF_FFFF
            assert ip.data.opts == options
            first, last = index == 0, index == len(found) - 1
            wanted = ACK | (CWR if first else 0) | (PSH | FIN if last else 0)
            assert frame_flags(ip) == wanted


def frame_flags(ip: Any) -> int:
    return bytes(ip.data)[13]


def test_a_gso_frame_without_payload_is_one_segment() -> None:
    (only,) = segments(Packet(4, "tcp", b""), 1000)
    verified(only)


BAD_GSO = {
    "other ethertype": lambda p: p.frame.__setitem__(12, 0x07),
    "other protocol": lambda p: p.frame.__setitem__(23, 17),
    "a fragment": lambda p: p.frame.__setitem__(21, 1),
    "header length of IP": lambda p: p.frame.__setitem__(14, 0x46),
    "header length of TCP below 20": lambda p: p.frame.__setitem__(p.start + 12, 0x40),
    "header length of TCP beyond the frame": lambda p: p.frame.__setitem__(p.start + 12, 0xF0),
    "a frame that ends in its TCP header": lambda p: setattr(p, "frame", p.frame[: p.start + 12]),
    "a frame that ends before IP": lambda p: setattr(p, "frame", p.frame[:14]),
}


@pytest.mark.parametrize("what", BAD_GSO)
def test_a_frame_that_is_not_what_gso_type_says(what: str) -> None:
    packet = Packet(4, "tcp", b"x" * 10)
    BAD_GSO[what](packet)
    net = header(1, TCPV4, 1000, packet.start, packet.offset)
    assert all_headers(net, np.ascontiguousarray(packet.frame), len(packet.frame)) == failure(
        Fault.GSO_HEADERS
    )


@pytest.mark.parametrize("gso", [TCPV4, UDP_L4, UDP])
def test_a_version_that_is_not_what_gso_type_says(gso: int) -> None:
    packet = Packet(6, "tcp", b"x" * 10)
    net = header(1, gso, 1000, packet.start, packet.offset)
    assert all_headers(net, packet.frame, len(packet.frame)) == failure(Fault.GSO_HEADERS)


@settings(max_examples=examples(300), deadline=None)
@given(
    frame=st.binary(min_size=14, max_size=120), start=st.integers(0, 130), gso=st.integers(1, 5),
    ethertype=st.sampled_from([b"\x08\x00", b"\x86\xdd", b"\x81\x00", b"\x12\x34"]),
)  # fmt: skip
def test_headers_are_never_looked_for_outside_the_frame(
    frame: bytes, start: int, gso: int, ethertype: bytes
) -> None:
    """Bytes behind the frame decide nothing: the same answer whatever they are."""
    data = frame[:12] + ethertype + frame[14:]
    answers = set()
    for filler in (0, 0x06, 0x45, 0xFF):
        array = np.full(70000, filler, np.uint8)
        array[: len(data)] = np.frombuffer(data, np.uint8)
        answers.add(all_headers(header(1, gso, 100, start, 16), array, len(data)))
    assert len(answers) == 1
    (answer,) = answers
    assert answer == failure(Fault.GSO_HEADERS) or 0 < answer <= len(data)


RULES = [
    (header(0), 60, 0),
    (header(0), 13, Fault.FRAME_TOO_SHORT),
    (header(0), layout.FRAME_MAX, 0),
    (header(0), layout.FRAME_MAX + 1, Fault.FRAME_TOO_LONG),
    (header(1, start=34, offset=16), 60, 0),
    (header(1, start=58, offset=0), 60, 0),
    (header(1, start=58, offset=1), 60, Fault.CSUM_OUTSIDE_FRAME),
    (header(1, start=0xFFFF, offset=0xFFFF), 60, Fault.CSUM_OUTSIDE_FRAME),
    (header(0, start=0xFFFF, offset=0xFFFF, hdr=0xFFFF, size=0xFFFF), 60, 0),
    (header(1, TCPV4, 1448, 34, 16, 54), 3000, 0),
    (header(1, TCPV4 | 0x80, 1448, 34, 16, 54), 3000, 0),
    (header(1, TCPV4, 1448, 34, 16, 3001), 3000, Fault.HEADER_LENGTH_BEYOND_FRAME),
    (header(0, TCPV4, 1448, 34, 16, 54), 3000, Fault.GSO_WITHOUT_CSUM),
    (header(1, TCPV4, 0, 34, 16, 54), 3000, Fault.GSO_SIZE),
    (header(1, TCPV4, 7, 34, 16, 54), 3000, Fault.GSO_SIZE),
    (header(1, TCPV4, 8, 34, 16, 54), 3000, 0),
    (header(1, TCPV4, 0xFFFF, 34, 16, 54), 3000, Fault.GSO_SIZE),
    (header(1, 2, 1448, 34, 16, 54), 3000, Fault.GSO_NOT_NEGOTIATED),
    (header(1, UDP, 1448, 34, 6, 42), 3000, 0),
    (header(1, UDP | 0x80, 1448, 34, 6, 42), 3000, Fault.GSO_UNKNOWN),
    (header(0, UDP, 1448, 34, 6, 42), 3000, Fault.GSO_WITHOUT_CSUM),
    (header(1, UDP, 7, 34, 6, 42), 3000, Fault.GSO_SIZE),
    (header(1, UDP, 0xFFFF, 34, 6, 42), 3000, Fault.GSO_SIZE),
    (header(1, UDP, 1448, 34, 6, 3001), 3000, Fault.HEADER_LENGTH_BEYOND_FRAME),
    (header(1, UDP_L4, 1448, 34, 6, 42), 3000, 0),
    (header(1, UDP_L4 | 0x80, 1448, 34, 6, 42), 3000, Fault.GSO_UNKNOWN),
    (header(1, UDP_L4, 7, 34, 6, 42), 3000, Fault.GSO_SIZE),
    (header(1, UDP_L4, 1448, 34, 6, 3001), 3000, Fault.HEADER_LENGTH_BEYOND_FRAME),
    (header(1, 6, 1448, 34, 16, 54), 3000, Fault.GSO_UNKNOWN),
    (header(1, 0x7F, 1448, 34, 16, 54), 3000, Fault.GSO_UNKNOWN),
]


@pytest.mark.parametrize("rule", RULES, ids=range(len(RULES)))
def test_header_rules(net: layout.Net, rule: tuple[Any, int, int]) -> None:
    raw, length, fault = rule
    assert check_header(raw.copy(), length, net.state) == (failure(fault) if fault else 0)


@pytest.mark.parametrize(
    ("feature", "fault", "gso"),
    [
        ("cfg_csum", Fault.CSUM_NOT_NEGOTIATED, 0),
        ("cfg_gso_types", Fault.GSO_NOT_NEGOTIATED, TCPV4),
        ("cfg_ecn", Fault.GSO_NOT_NEGOTIATED, TCPV4 | 0x80),
    ],
)
def test_what_was_not_negotiated_is_refused(
    net: layout.Net, feature: str, fault: Fault, gso: int
) -> None:
    raw = header(1, gso, 1448, 34, 16, 54)
    assert check_header(raw.copy(), 3000, net.state) == 0
    net.state[feature] = 0
    assert check_header(raw, 3000, net.state) == failure(fault)


def test_only_what_was_checked_reaches_the_tap(net: layout.Net) -> None:
    """Flags without a meaning here, and what belongs to a segmentation that is not asked for."""
    raw = header(0xFE, 0x80, 9, 10, 11, 12)
    raw[10:] = 0xFF
    assert check_header(raw, 60, net.state) == 0
    assert raw.tobytes() == struct.pack("<BBHHHHH", 0, 0, 0, 0, 10, 11, 0)


def test_addresses_are_what_this_machine_calls_them() -> None:
    """The packets that the tests build are what they say, by another decoder."""
    packet = Packet(4, "tcp", b"hello")
    finish_checksum(header(1, 0, 0, packet.start, packet.offset), packet.frame, len(packet.frame))
    ip = verified(packet.frame.tobytes())
    assert socket.inet_ntoa(ip.src) == "10.0.0.1"
    assert ip.data.sport == 1000
