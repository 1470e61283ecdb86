# SPDX-License-Identifier: Apache-2.0
"""Takes the records of frames out of the memory that a worker writes (`jit/capture_ring.py`).

The worker may have been taken over by its guest. So what it has written is copied out first, and
every number of the copy is checked before it is used. The file is sealed: it cannot be cut short.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from typing import NamedTuple

from ovs_vhost_plugin.jit.capture_ring import (
    DROP_SHIFT,
    FAULT_SHIFT,
    FINISHED_SHIFT,
    FRAME_MAX,
    HEAD,
    HEADER_SHIFT,
    LOST,
    PART,
    RECORD_HEAD,
    RECORDS,
    ROOM,
    RX,
    TAIL,
    TX,
)

_NUMBER = struct.Struct("=q")
_RECORD = struct.Struct("=5q16sq")
_HEADER_MOST = 12
_WORD = 8

assert _RECORD.size == RECORD_HEAD


class RingBrokenError(Exception):
    """The worker has written nonsense."""


class CapturedFrame(NamedTuple):
    """One frame of a ring.

    time       of CLOCK_MONOTONIC, in ns
    pair       the number of its queue pair
    sent       whether the guest sent it
    length     bytes of it, of which `data` has the first
    header     its virtio-net header, empty if it had none
    drop       a `Drop` by number, and a `Fault` or 0
    finished   whether `data` is as it was finished for the tap
    lost       frames of this pair that are missing before it
    """

    time: int
    pair: int
    sent: bool
    length: int
    header: bytes
    data: bytes
    drop: int
    fault: int
    finished: bool
    lost: int


class CaptureRings:
    """The parts of a worker's queue pairs, in a mapping of its file.

    lost  frames that found no room so far
    """

    def __init__(self, memory: mmap.mmap, queues: int) -> None:
        self._memory = memory
        self._parts = [_Part(memory, pair) for pair in range(queues)]

    @property
    def lost(self) -> int:
        """The number of frames that found no room so far."""
        return sum(part.lost for part in self._parts)

    def take(self) -> list[CapturedFrame]:
        """Take all frames that are there, in the order of their times. Raises RingBrokenError."""
        frames = [frame for part in self._parts for frame in part.take()]
        frames.sort(key=lambda frame: frame.time)
        return frames

    def close(self) -> None:
        """Unmap the file."""
        self._memory.close()


class _Part:
    """The part of one pair."""

    def __init__(self, memory: mmap.mmap, pair: int) -> None:
        self._memory = memory
        self._pair = pair
        self._at = PART * pair
        self._tail = 0
        self._told_lost = 0  # by records

    @property
    def lost(self) -> int:
        return max(0, self._number(LOST))

    def take(self) -> list[CapturedFrame]:
        head = self._number(HEAD)
        if head == self._tail:
            return []
        if not 0 < head - self._tail <= ROOM:
            raise RingBrokenError("its position is out of range")
        frames = list(self._parse(self._copy(head - self._tail)))
        self._tail = head
        # Only now: what is taken makes room once in a look, which bounds the rate.
        _NUMBER.pack_into(self._memory, self._at + TAIL, head)
        return frames

    def _copy(self, length: int) -> bytes:
        """The bytes that are to be taken, in order."""
        begin = self._at + RECORDS
        at = self._tail % ROOM
        first = min(length, ROOM - at)
        return (
            self._memory[begin + at : begin + at + first]
            + self._memory[begin : begin + length - first]
        )

    def _parse(self, copy: bytes) -> Iterator[CapturedFrame]:
        at, end = 0, len(copy)
        while at < end:
            if end - at < _WORD:
                raise RingBrokenError("a record has no length")
            (size,) = _NUMBER.unpack_from(copy, at)
            if size < 0:  # up to the end of the room
                if -size > min(end - at, ROOM - (self._tail + at) % ROOM) or size % _WORD:
                    raise RingBrokenError("too much is skipped")
                at -= size
                continue
            if not RECORD_HEAD <= size <= end - at or size % _WORD:
                raise RingBrokenError("a record's length is out of range")
            yield self._frame(copy, at, size)
            at += size

    def _frame(self, copy: bytes, at: int, size: int) -> CapturedFrame:
        _, time, what, length, captured, header, lost = _RECORD.unpack_from(copy, at)
        if not 0 <= captured <= min(length, size - RECORD_HEAD, FRAME_MAX):
            raise RingBrokenError("a frame's length is out of range")
        if time < 0 or length >= 1 << 32 or what & 0xFF not in (RX, TX):
            raise RingBrokenError("a record's numbers are out of range")
        missing, self._told_lost = lost - self._told_lost, lost
        body = at + RECORD_HEAD
        return CapturedFrame(
            time=time,
            pair=self._pair,
            sent=what & 0xFF == TX,
            length=length,
            header=header[: min(what >> HEADER_SHIFT & 0xFF, _HEADER_MOST)],
            data=copy[body : body + captured],
            drop=what >> DROP_SHIFT & 0xFF,
            fault=what >> FAULT_SHIFT & 0xFF,
            finished=bool(what >> FINISHED_SHIFT & 1),
            lost=min(max(missing, 0), (1 << 64) - 1),
        )

    def _number(self, offset: int) -> int:
        number: int = _NUMBER.unpack_from(self._memory, self._at + offset)[0]
        return number
