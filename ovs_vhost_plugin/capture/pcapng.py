# SPDX-License-Identifier: Apache-2.0
"""The blocks of a pcapng file that a capture has (draft-ietf-opsawg-pcapng, section 4).

Each function returns one whole block. Nothing here reads a file or knows of rings.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

ETHERNET = 1
"""LINKTYPE_ETHERNET."""
INBOUND, OUTBOUND = 1, 2
"""Directions, the lowest bits of epb_flags (section 4.3.1)."""

_SECTION, _INTERFACE, _STATISTICS, _PACKET, _JOURNAL = 0x0A0D0D0A, 1, 5, 6, 9
_BYTE_ORDER, _VERSION, _LENGTH_UNKNOWN = 0x1A2B3C4D, (1, 0), -1
_COMMENT = 1
_SHB_OS, _SHB_USERAPPL = 3, 4
_IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL, _IF_FILTER = 2, 3, 9, 11
_NANOSECONDS = b"\x09"
_EPB_FLAGS, _EPB_DROPCOUNT, _EPB_QUEUE = 2, 4, 6
_ISB_IFRECV, _ISB_IFDROP = 4, 5
_OPTION_MOST = 0xFFFF

_HEAD, _TAIL = struct.Struct("<II"), struct.Struct("<I")
_OPTION = struct.Struct("<HH")
_EPB = struct.Struct("<5I")
_FLAGS = struct.Struct("<HHI")
_END = bytes(4)  # opt_endofopt
_PADDING = (b"", bytes(3), bytes(2), bytes(1))  # by length modulo 4


def section(program: str, system: str) -> bytes:
    """A Section Header Block: the file's beginning."""
    options = _texts((_SHB_OS, system), (_SHB_USERAPPL, program))
    return _block(_SECTION, struct.pack("<IHHq", _BYTE_ORDER, *_VERSION, _LENGTH_UNKNOWN) + options)


def interface(name: str, description: str, snap: int, kept: str) -> bytes:
    """An Interface Description Block; `kept` says which frames are captured, "" for all."""
    texts = [(_IF_NAME, name), (_IF_DESCRIPTION, description)]
    # if_filter: its first byte, 0, says that a text follows
    filters = [_option(_IF_FILTER, b"\0" + kept.encode())] if kept else []
    options = b"".join([_option(_IF_TSRESOL, _NANOSECONDS), *filters])
    return _block(_INTERFACE, struct.pack("<HHI", ETHERNET, 0, snap) + options + _texts(*texts))


def packet(
    time: int,
    data: bytes,
    length: int,
    direction: int,
    queue: int,
    lost: int,
    comments: Iterable[str],
) -> bytes:
    """An Enhanced Packet Block of the first interface.

    time    in ns since 1970
    data    the captured bytes; `length`: those of the frame
    queue   the number of the queue
    lost    frames that are missing between this one and the one before
    """
    parts = [
        _EPB.pack(0, time >> 32 & 0xFFFF_FFFF, time & 0xFFFF_FFFF, len(data), length),
        data,
        _PADDING[len(data) & 3],
        _FLAGS.pack(_EPB_FLAGS, 4, direction),
        _FLAGS.pack(_EPB_QUEUE, 4, queue),
    ]
    if lost:
        parts.append(_option(_EPB_DROPCOUNT, struct.pack("<Q", lost)))
    parts += [_option(_COMMENT, comment.encode()) for comment in comments]
    parts.append(_END)
    return _block(_PACKET, b"".join(parts))


def journal_entry(time: int, fields: Iterable[tuple[str, str]]) -> bytes:
    """A systemd Journal Export Block: an entry in the journal's export format; `time` in ns.

    Values are one line each.
    """
    lines = [f"__REALTIME_TIMESTAMP={time // 1000}", *(f"{name}={value}" for name, value in fields)]
    entry = "".join(f"{line}\n" for line in lines).encode() + b"\n"
    return _block(_JOURNAL, entry + _PADDING[len(entry) & 3])


def statistics(time: int, received: int, dropped: int) -> bytes:
    """An Interface Statistics Block of the first interface; `time` in ns."""
    counts = [
        _option(_ISB_IFRECV, struct.pack("<Q", received)),
        _option(_ISB_IFDROP, struct.pack("<Q", dropped)),
    ]
    head = struct.pack("<III", 0, time >> 32 & 0xFFFF_FFFF, time & 0xFFFF_FFFF)
    return _block(_STATISTICS, head + b"".join(counts) + _END)


def _block(kind: int, body: bytes) -> bytes:
    length = len(body) + 12
    return _HEAD.pack(kind, length) + body + _TAIL.pack(length)


def _option(code: int, value: bytes) -> bytes:
    value = value[:_OPTION_MOST]
    return _OPTION.pack(code, len(value)) + value + _PADDING[len(value) & 3]


def _texts(*texts: tuple[int, str]) -> bytes:
    return b"".join(_option(code, text.encode()) for code, text in texts) + _END
