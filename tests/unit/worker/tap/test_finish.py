# SPDX-License-Identifier: Apache-2.0
"""Frames with work left undone, checked against dpkt's own checksums."""

from __future__ import annotations

import struct

import dpkt
import pytest

from ovs_vhost_plugin.worker.tap.finish import Finisher, UnfinishedError

HEADER = struct.Struct("<BBHHHH")  # virtio 1.2, 5.1.6.1
NEEDS_CSUM, DATA_VALID = 1, 2
TCPV4 = 1


def tcp(payload: bytes) -> bytes:
    segment = dpkt.tcp.TCP(sport=1, dport=2, seq=100, flags=0x18, data=payload)
    ip = dpkt.ip.IP(src=b"\x0a\0\0\1", dst=b"\x0a\0\0\2", p=6, data=segment)
    return bytes(dpkt.ethernet.Ethernet(src=b"\2" * 6, dst=b"\4" * 6, type=0x0800, data=ip))


def begun(frame: bytes) -> bytes:
    """The frame with only the pseudo header's sum in its checksum, as a kernel hands it over."""
    length = len(frame) - 34
    words = struct.unpack("!4H", frame[26:34])
    total = sum(words) + 6 + length
    total = (total & 0xFFFF) + (total >> 16)
    return frame[:50] + struct.pack("!H", (total & 0xFFFF) + (total >> 16)) + frame[52:]


def header(flags: int = 0, gso: int = 0, size: int = 0, start: int = 34, at: int = 16) -> bytes:
    return HEADER.pack(flags, gso, 54 if gso else 0, size, start, at) + bytes(2)


@pytest.mark.parametrize("size", [10, 12])
def test_a_complete_frame_stays_as_it_is(size: int) -> None:
    frame = tcp(b"data")
    for flags in (0, DATA_VALID):
        assert Finisher().finish(header(flags)[:size] + frame, size) == [frame]


def test_a_checksum_is_finished() -> None:
    frame = tcp(b"odd")
    assert begun(frame) != frame
    assert Finisher().finish(header(NEEDS_CSUM) + begun(frame), 12) == [frame]


def test_a_large_frame_becomes_segments_with_good_checksums() -> None:
    payload = bytes(n & 0xFF for n in range(5000))
    record = header(NEEDS_CSUM, TCPV4, 1448) + begun(tcp(payload))
    segments = Finisher().finish(memoryview(record), 12)
    assert [len(s) - 54 for s in segments] == [1448, 1448, 1448, 656]
    joined = b""
    for segment in segments:
        packet = dpkt.ethernet.Ethernet(segment).data
        given, packet.data.sum, packet.sum = packet.data.sum, 0, 0
        again = dpkt.ip.IP(bytes(packet))
        assert again.data.sum == given and again.data.seq == 100 + len(joined)
        joined += again.data.data
    assert joined == payload


@pytest.mark.parametrize(
    "record",
    [
        header(NEEDS_CSUM, start=60000) + tcp(b""),
        header(NEEDS_CSUM, gso=3, size=1000) + tcp(bytes(3000)),
        header(NEEDS_CSUM, gso=TCPV4, size=0) + tcp(bytes(3000)),
        header(0, gso=TCPV4, size=1000) + tcp(bytes(3000)),
        header() + bytes(13),
    ],
)
def test_what_cannot_be_finished_has_a_name(record: bytes) -> None:
    with pytest.raises(UnfinishedError, match=r"^[a-z-]+$"):
        Finisher().finish(record, 12)
