# SPDX-License-Identifier: Apache-2.0
"""The reader of a capture's memory against a worker that writes what it likes."""

from __future__ import annotations

import mmap
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.capture.ring import CapturedFrame, CaptureRings, RingBrokenError
from ovs_vhost_plugin.jit.capture_ring import (
    FRAME_MAX,
    HEAD,
    LOST,
    PART,
    RECORD_HEAD,
    RECORDS,
    ROOM,
    RX,
    TAIL,
    TX,
)

RECORD = struct.Struct("=5q16sq")


class WrittenPart:
    """A part of a capture's memory, written by hand."""

    def __init__(self, queues=1):
        self.memory = mmap.mmap(-1, PART * queues)
        self.rings = CaptureRings(self.memory, queues)
        self.head = 0

    def put(self, data, part=0):
        at = PART * part + RECORDS + self.head % ROOM
        self.memory[at : at + len(data)] = data
        self.head += len(data)
        self.publish(self.head, part)

    def publish(self, head, part=0):
        struct.pack_into("=q", self.memory, PART * part + HEAD, head)


def record(
    data=b"frame", *, time=1, what=TX | 12 << 32, length=None, captured=None, size=None, lost=0
):
    padded = data.ljust(-(-len(data) // 8) * 8, b"\0")
    size = RECORD_HEAD + len(padded) if size is None else size
    length = len(data) if length is None else length
    captured = len(data) if captured is None else captured
    return RECORD.pack(size, time, what, length, captured, bytes(range(16)), lost) + padded


def test_frames_of_all_pairs_come_in_the_order_of_their_times():
    part = WrittenPart(queues=2)
    part.put(record(b"first", time=1) + record(b"third", time=3, lost=2))
    part.head = 0
    part.put(record(b"second", time=2, what=RX), part=1)
    assert part.rings.take() == [
        CapturedFrame(1, 0, True, 5, bytes(range(12)), b"first", 0, 0, False, 0),
        CapturedFrame(2, 1, False, 6, b"", b"second", 0, 0, False, 0),
        CapturedFrame(3, 0, True, 5, bytes(range(12)), b"third", 0, 0, False, 2),
    ]
    assert part.rings.take() == []


def test_room_is_made_once_all_is_taken():
    part = WrittenPart()
    part.put(record())
    assert struct.unpack_from("=q", part.memory, TAIL) == (0,)
    part.rings.take()
    assert struct.unpack_from("=q", part.memory, TAIL) == (part.head,)


def test_the_end_of_the_room_is_skipped():
    part = WrittenPart()
    largest = record(bytes(FRAME_MAX), length=FRAME_MAX)
    while part.head + len(largest) <= ROOM:
        part.put(largest)
        part.rings.take()
    left = ROOM - part.head
    part.put(struct.pack("=q", -left).ljust(left, b"\0"))
    part.put(record(b"again"))
    assert [one.data for one in part.rings.take()] == [b"again"]


@pytest.mark.parametrize(
    "nonsense",
    [
        record(size=0),
        record(size=8),
        record(size=RECORD_HEAD + 12),
        record(size=RECORD_HEAD + 16),
        record(size=1 << 62),
        record(captured=6),
        record(captured=-1),
        record(captured=5, length=4),
        record(bytes(16), captured=17, length=17),
        record(length=1 << 40),
        record(time=-1),
        record(what=3),
        record(what=0),
        struct.pack("=q", -(1 << 62)),
        struct.pack("=q", -12),
        struct.pack("=qq", -24, 0),
    ],
)
def test_nonsense_ends_the_capture(nonsense):
    part = WrittenPart()
    part.put(nonsense)
    with pytest.raises(RingBrokenError):
        part.rings.take()


@pytest.mark.parametrize("head", [-8, ROOM + 8, 1 << 62, -1 << 63, 4])
def test_a_position_out_of_range_ends_the_capture(head):
    part = WrittenPart()
    part.publish(head)
    with pytest.raises(RingBrokenError):
        part.rings.take()


def test_a_count_of_lost_frames_that_cannot_be_is_none():
    part = WrittenPart()
    struct.pack_into("=q", part.memory, LOST, -5)
    part.put(record(lost=-7) + record(lost=-9))
    assert [one.lost for one in part.rings.take()] == [0, 0] and part.rings.lost == 0


@given(st.binary(max_size=400), st.integers(-600, 1200))
def test_whatever_is_written_is_frames_or_an_error(data, head):
    part = WrittenPart()
    part.put(data)
    part.publish(head)
    try:
        frames = part.rings.take()
    except RingBrokenError:
        return
    assert all(len(one.data) <= min(one.length, len(data)) for one in frames)
    assert RECORD_HEAD * len(frames) <= max(head, 0)
