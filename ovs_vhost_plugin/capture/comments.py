# SPDX-License-Identifier: Apache-2.0
"""A captured frame's virtio-net header and its fate, in words."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache

from ovs_vhost_plugin.capture.ring import CapturedFrame
from ovs_vhost_plugin.jit.capture_ring import Drop
from ovs_vhost_plugin.jit.faults import Fault

# struct virtio_net_hdr (virtio 1.2, 5.1.6)
_FIELDS = ("hdr_len", "gso_size", "csum_start", "csum_offset", "num_buffers")
_HEADER = struct.Struct("<2B5H")
_FLAGS = {1: "NEEDS_CSUM", 2: "DATA_VALID", 4: "RSC_INFO"}
_GSO = {0: "NONE", 1: "TCPV4", 3: "UDP", 4: "TCPV6", 5: "UDP_L4"}
_ECN = 0x80
_WHOSE = "virtio-net"


def comments(frame: CapturedFrame) -> Iterator[str]:
    """Each fact as a line."""
    if frame.header:
        yield describe_header(frame.header)
    if frame.finished:
        yield "finished here: its checksum is as it went to the tap, in segments if it is GSO"
    if frame.drop:
        yield f"dropped: {_reason(frame.drop, frame.fault)}"
    if frame.lost:
        yield f"{frame.lost} frames before it were not captured: no room"


@lru_cache(1024)  # most frames have one of few headers
def describe_header(header: bytes) -> str:
    """The header's fields by the names of the specification; a short one has no num_buffers."""
    flags, gso, *numbers = _HEADER.unpack(header.ljust(_HEADER.size, b"\0"))
    known = [name for bit, name in _FLAGS.items() if flags & bit]
    rest = flags & ~sum(_FLAGS)
    named = "|".join([*known, *([f"{rest:#x}"] if rest else [])]) or "0"
    kind = _GSO.get(gso & ~_ECN, f"{gso & ~_ECN:#x}") + ("|ECN" if gso & _ECN else "")
    given = zip(_FIELDS[: (len(header) - 2) // 2], numbers, strict=False)
    fields = [f"{name}={number}" for name, number in given]
    return " ".join([f"{_WHOSE}:", f"flags={named} gso_type={kind}", *fields])


def _reason(drop: int, fault: int) -> str:
    name = _name(Drop, drop).lower()
    return f"{name} ({_name(Fault, fault).lower().replace('_', '-')})" if fault else name


def _name(kind: type[Drop] | type[Fault], number: int) -> str:
    return kind(number).name if number in kind._value2member_map_ else str(number)
