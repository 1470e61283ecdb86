# SPDX-License-Identifier: Apache-2.0
"""The layout of the memory in which a capture's frames go from a worker to who captures.

The file has a part for each queue pair: a page of positions, then the room for records. The pair's
loop writes records and the head (`jit/net/capture.py`), the reader the tail (`capture/ring.py`).
Head and tail count bytes since the beginning. A record lies in one piece: where the rest of the
room is too short, it is skipped. All numbers are signed, of 64 bits, in the host's byte order.
"""

from __future__ import annotations

from enum import IntEnum

HEAD, TAIL, LOST = 0, 64, 128
"""Offsets in a part, each in a cache line: bytes written, bytes read, frames without room."""
RECORDS = 4096
"""Offset of the room for records in a part."""
ROOM = (1 << 20) - RECORDS
"""Bytes for records in a part: some hundred milliseconds of small frames."""
PART = RECORDS + ROOM

SIZE, TIME, WHAT, LENGTH, CAPTURED, HEADER, LOST_SO_FAR = 0, 8, 16, 24, 32, 40, 56
"""Offsets in a record.

SIZE         bytes of the record, a multiple of 8; negative: so many are skipped
TIME         CLOCK_MONOTONIC in ns
WHAT         see the shifts below
LENGTH       bytes of the frame, without its virtio-net header
CAPTURED     bytes of the frame that follow the record's head
HEADER       the virtio-net header, 12 bytes, zero behind its end
LOST_SO_FAR  the part's LOST before this frame
"""
RECORD_HEAD = 64
HEADER_ROOM = 16

RX, TX = 1, 2
"""The lowest bits of WHAT: the ring that the frame was of, as the guest names it."""
DROP_SHIFT, FAULT_SHIFT, FINISHED_SHIFT, HEADER_SHIFT = 8, 16, 24, 32
"""Places in WHAT of a `Drop`, a `Fault`, "finished here", and the header's bytes (0: none)."""

FRAME_MAX = 65535 + 14 + 2 * 4
"""The most bytes of a frame that are captured: all of the longest one."""


class Drop(IntEnum):
    """Why a frame was dropped, as the counters of `ovs-vhost stats` name it."""

    NONE = 0
    TX_DROPPED_FAULTY = 1
    TX_DROPPED_DISABLED = 2
    TX_DROPPED_TAP_DOWN = 3
    TX_DROPPED_TAP_REFUSED = 4
    RX_DROPPED_TOO_LONG = 5
    RX_DROPPED_NO_BUFFERS = 6
