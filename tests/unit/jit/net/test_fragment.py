# SPDX-License-Identifier: Apache-2.0
"""Fragments, put together again as RFC 791 and RFC 8200 say, by a few lines of plain Python."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.jit.examples import examples
from support.jit.fragments import (
    DESTINATION,
    FRAGMENT,
    HOP_BY_HOP,
    ROUTING,
    UDP,
    Cut,
    large,
    together,
)
from support.jit.packets import Packet, header, ones_complement

from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.net.fragment import begin, make_fragment, step
from ovs_vhost_plugin.jit.result import failure, fault_of

UFO = 3
IDENTIFICATION = 0xFEDC_BA98
# What only the first fragment has: record route; what all have: a security label; padding.
ROUTE, LABEL = b"\x07\x07\x04" + bytes(4), b"\x82\x04\x01\x02"
BLANK = b"\x01"


def fragments(packet: Packet, size: int) -> list[bytes]:
    net = header(1, UFO, size, packet.start, 6)
    length = len(packet.frame)
    headers = begin(net, packet.frame, length)
    assert headers > 0, Fault(fault_of(headers))
    payload = length - headers
    out = fresh.new_net().gso_segment
    made = []
    for position in range(0, payload, step(net, payload)):
        n = make_fragment(net, packet.frame, headers, payload, position, IDENTIFICATION, out)
        assert not out[: layout.HEADER_MAX].any()
        made.append(out[layout.HEADER_MAX : layout.HEADER_MAX + n].tobytes())
    return made


@settings(deadline=None)
@given(
    version=st.sampled_from([4, 6]), length=st.integers(0, 3000),
    size=st.integers(8, 1600) | st.just(0xFFFE), tags=st.integers(0, 2),
    more=st.sampled_from([b"", b"options"]), seed=st.integers(0, 255),
)  # fmt: skip
def test_fragments_make_up_the_datagram(
    version: int, length: int, size: int, tags: int, more: bytes, seed: int
) -> None:
    payload = bytes(seed + i * 7 & 0xFF for i in range(length))
    options = ROUTE + LABEL + BLANK if more and version == 4 else b""
    extension = bytes([HOP_BY_HOP, 1]) + bytes(14) if more and version == 6 else b""
    packet = large(version, payload, tags=tags, options=options, extension=extension)
    before = packet.frame.tobytes()
    network = 14 + 4 * tags
    first = Cut(before, network) if version == 6 else None
    cuts = [Cut(frame, network) for frame in fragments(packet, size)]
    datagram = together(cuts)
    assert datagram[8:] == payload
    assert datagram[:6] == struct.pack(">HHH", 1000, 2000, 8 + length)
    ends = packet.frame[packet.start - len(options) - 8 :][:8] if version == 4 else None
    addresses = ends.tobytes() if ends is not None else bytes(range(32))
    pseudo = addresses + struct.pack(">II", len(datagram), UDP)
    assert ones_complement(pseudo + datagram) == 0xFFFF and datagram[6:8] != b"\0\0"
    assert {cut.ethernet for cut in cuts} == {before[:network]}
    assert len({cut.headers for cut in cuts}) == 1
    assert first is None or cuts[0].headers == first.headers
    most = size if len(datagram) <= size else size & ~7
    assert all(len(cut.payload) == most for cut in cuts[:-1])
    assert len(cuts[-1].payload) <= most
    assert len(cuts) == -(-len(datagram) // most)
    assert [cut.options for cut in cuts[:1]] == [options]
    assert {cut.options for cut in cuts[1:]} <= {BLANK * 7 + LABEL + BLANK if options else b""}
    lone = len(cuts) == 1
    assert {cut.id for cut in cuts} == {0x1234 if version == 4 else 0 if lone else IDENTIFICATION}
    # One that needs no cut keeps "don't fragment"; what was cut may be cut again.
    assert bool(cuts[0].lone) == lone


@pytest.mark.parametrize("before", [True, False])
def test_destination_options_are_cut_like_the_payload(before: bool) -> None:
    """What is for the destination only is put together there (RFC 8200, 4.5)."""
    payload = bytes(range(200))
    packet = large(6, payload, extension=bytes([0, 0]) + bytes(6))
    network = packet.start - 48
    if before:  # hop-by-hop, then destination options
        packet.frame[network + 40] = DESTINATION
        packet.frame = np.insert(packet.frame, packet.start, [UDP, 0, 1, 4, 0, 0, 0, 0])
        packet.start += 8
    else:
        packet.frame[network + 6] = DESTINATION
    cuts = [Cut(frame, network) for frame in fragments(packet, 48)]
    datagram = together(cuts)
    assert datagram[16:] == payload and datagram[0] == UDP
    assert cuts[0].headers[4] == (HOP_BY_HOP if before else DESTINATION)
    assert len(cuts[0].headers) == (46 if before else 38)


@pytest.mark.parametrize(
    ("options", "later"),
    [
        (b"\x07\x04ab\x07\x09cd", b"\1\1\1\1\x07\x09cd"),  # longer than what is there
        (b"\x07\x04ab\1\1\1\x07", b"\1\1\1\1\1\1\1\x07"),  # no length
        (b"\x07\x04ab\0\x07\x02\x07", b"\1\1\1\1\0\x07\x02\x07"),  # behind the end
        (b"\x07\x01\x07\x00\x82\x02ab", b"\1\1\1\1\x82\x02ab"),  # shorter than itself
    ],
)
def test_options_that_are_none(options: bytes, later: bytes) -> None:
    packet = large(4, bytes(100), options=options)
    cuts = [Cut(frame, 14) for frame in fragments(packet, 64)]
    assert together(cuts)[8:] == bytes(100)
    assert [cut.options for cut in cuts] == [options, later]


def test_a_checksum_of_zero_is_written_as_ones() -> None:
    """0 would mean that there is none (RFC 768)."""
    packet = large(4, b"\0\0")
    rest = ones_complement(packet.frame[packet.start :].tobytes())
    packet.frame[-2:] = np.frombuffer(struct.pack(">H", 0xFFFF - rest), np.uint8)
    (only,) = fragments(packet, 1000)
    assert only[packet.start + 6 :][:2] == b"\xff\xff"


BAD = {
    "other ethertype": (4, lambda p: p.frame.__setitem__(12, 0x07)),
    "IPv6 in a frame of IPv4": (4, lambda p: p.frame.__setitem__(slice(12, 14), (0x86, 0xDD))),
    "other protocol": (4, lambda p: p.frame.__setitem__(23, 6)),
    "a first fragment": (4, lambda p: p.frame.__setitem__(20, 0x20)),
    "a later fragment": (4, lambda p: p.frame.__setitem__(21, 1)),
    "header length of IP": (4, lambda p: p.frame.__setitem__(14, 0x46)),
    "header length of IP below 20": (4, lambda p: p.frame.__setitem__(14, 0x44)),
    "a frame that ends in its UDP header": (
        4, lambda p: setattr(p, "frame", p.frame[: p.start + 7]),
    ),
    "a frame that ends before IP": (4, lambda p: setattr(p, "frame", p.frame[:14])),
    "UDP that begins elsewhere": (4, lambda p: setattr(p, "start", p.start + 8)),
    "a routing header": (6, lambda p: p.frame.__setitem__(20, ROUTING)),
    "an IPv6 fragment": (6, lambda p: p.frame.__setitem__(20, FRAGMENT)),
    "an extension longer than the frame": (6, lambda p: p.frame.__setitem__(55, 0xFF)),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_frame_that_is_no_datagram(what: str) -> None:
    version, spoil = BAD[what]
    extension = bytes([HOP_BY_HOP, 0]) + bytes(6) if version == 6 else b""
    packet = large(version, b"x" * 20, extension=extension)
    spoil(packet)
    frame = np.ascontiguousarray(packet.frame)
    before = frame.copy()
    wrong = header(1, UFO, 16, packet.start, 6)
    assert begin(wrong, frame, len(frame)) == failure(Fault.GSO_HEADERS)
    assert (frame == before).all()


def test_an_ipv4_packet_that_nobody_could_put_together() -> None:
    packet = large(4, bytes(65_535 - 28))
    net = header(1, UFO, 1480, packet.start, 6)
    assert begin(net, packet.frame, len(packet.frame)) == packet.start
    longer = np.append(packet.frame, np.uint8(0))
    assert len(longer) <= layout.FRAME_MAX
    assert begin(net, longer, len(longer)) == failure(Fault.FRAME_TOO_LONG)


@settings(max_examples=examples(300), deadline=None)
@given(
    frame=st.binary(min_size=14, max_size=120), start=st.integers(0, 130), size=st.integers(8, 99),
    ethertype=st.sampled_from([b"\x08\x00", b"\x86\xdd", b"\x81\x00"]), follow=st.booleans(),
)  # fmt: skip
def test_nothing_outside_the_frame_is_read_or_written(
    frame: bytes, start: int, size: int, ethertype: bytes, follow: bool
) -> None:
    """Bytes behind the frame decide nothing and stay: the same pieces whatever they are."""
    data = bytearray(frame[:12] + ethertype + frame[14:])
    if follow and start > 34 and ethertype == b"\x08\x00":  # as a datagram would have it
        data[14:15], data[20:22], data[23:24] = bytes([0x40 + (start - 14 >> 2)]), b"\0\0", b"\x11"
        start = 14 + (start - 14 & ~3)
    elif follow and len(data) > 62 and ethertype == b"\x86\xdd":
        data[20:21], start = bytes([UDP]), 54
    answers = set()
    for filler in (0, 0x06, 0x45, 0xFF):
        array = np.full(70000, filler, np.uint8)
        array[: len(data)] = np.frombuffer(bytes(data), np.uint8)
        net = header(1, UFO, size, start, 6)
        headers = begin(net, array, len(data))
        assert (array[len(data) :] == filler).all()
        pieces = []
        if headers > 0:
            payload = len(data) - headers
            for at in range(0, payload, step(net, payload)):
                out = np.full(200, filler, np.uint8)
                n = make_fragment(net, array, headers, payload, at, 1, out)
                pieces.append(out[12 : 12 + n].tobytes())
                assert (np.delete(out, range(12, 12 + n)) == filler).all()
        answers.add((headers, *pieces))
    assert len(answers) == 1


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tags", [0, 2])
def test_the_longest_fragments_have_room(version: int, tags: int) -> None:
    """A fragment header makes what is almost the whole frame longer than the frame."""
    room = fresh.new_net().gso_segment
    payload = 65_535 - 28 if version == 4 else layout.FRAME_MAX - 62 - 4 * tags
    packet = large(version, bytes(payload), tags=tags)
    all_but_a_rest = (8 + payload - 1) & ~7
    first, last = fragments(packet, all_but_a_rest)
    assert layout.HEADER_MAX + len(first) <= len(room)
    assert version == 4 or len(first) > len(packet.frame) == layout.FRAME_MAX
    network = 14 + 4 * tags
    assert len(together([Cut(first, network), Cut(last, network)])) == 8 + payload


def test_pieces_of_a_size_that_is_checked(net: Any) -> None:
    for size in (8, 15, 1479, 0xFFFE):
        raw = header(1, UFO, size)
        assert step(raw, size) == size
        assert step(raw, size + 1) == size & ~7 > 0
