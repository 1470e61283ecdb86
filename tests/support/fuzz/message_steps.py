# SPDX-License-Identifier: Apache-2.0
"""What a front-end sends: the fds that may come, and the messages of one that behaves."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
from typing import Any

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.features import Nic, offer
from ovs_vhost_plugin.vhost.spec import Feature, FrontendRequest

PAIRS = 2
OFFER = offer(PAIRS, 1500, postcopy=False, nic=Nic())
NOT_USED = Feature.LOG_ALL.mask | Feature.RING_PACKED.mask | Feature.ACCESS_PLATFORM.mask
"""Features that a front-end that behaves leaves: its rings are split."""
USER, REGION = 0x7F00_0000_0000, 0x40000
"""Where a front-end that behaves has its memory: guest addresses begin at 0."""
RING, SIZE, RX_BUFFER, TX_BUFFER = 0x1000, 8, 0x20000, 0x30000
"""Vring i lies at i * RING: descriptors, at 0x400 the avail ring, at 0x800 the used ring."""


def new_file(size: int) -> int:
    fd = os.memfd_create("fuzz")
    os.ftruncate(fd, size)
    return fd


def opath(fd: int) -> int:
    """An fd that only names what `fd` is."""
    named = os.open(f"/proc/self/fd/{fd}", os.O_PATH)
    os.close(fd)
    return named


def read_only(size: int) -> int:
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(size)
        return os.open(file.name, os.O_RDONLY)


def pipe_end(kept: int) -> int:
    """0: to read from, what a peer closed at once; 1: to write to, what nobody reads."""
    ends = os.pipe()
    os.close(ends[1 - kept])
    return ends[kept]


def channel(said: bytes) -> int:
    """A socket for the back-end's requests whose other end said something and is gone."""
    ours, theirs = socket.socketpair()
    ours.send(said)
    ours.close()
    return theirs.detach()


ANSWER = spec.HEADER.pack(2, spec.VERSION | spec.REPLY, 8) + bytes(8)
"""To a CONFIG_CHANGE_MSG, whether or not there was one."""


def new_region() -> int:
    """What is in flight, as a back-end may have left it that gave chains back out of order."""
    fd = new_file(REGION)
    for vring in range(2 * PAIRS):
        at = vring * 64 * 3  # SIZE entries, in whole cache lines
        os.pwrite(fd, struct.pack("<QHHHH", 0, 1, SIZE, 3, 0), at)
        for head, counter in ((2, 9), (0, 7), (5, 8)):
            os.pwrite(fd, struct.pack("<B5xHQ", 1, head, counter), at + 16 + 16 * head)
    return fd


def new_packed_region() -> int:
    """The same of packed rings: a chain of two entries and one of one, the rest free."""
    fd = new_file(REGION)
    for vring in range(2 * PAIRS):
        at = vring * (32 + 32 * SIZE + 63) // 64 * 64
        os.pwrite(fd, struct.pack("<QHHHHHHBB", 0, 1, SIZE, 3, 3, 0, 0, 1, 1), at)
        for index in range(SIZE):
            following, counter, flags = index + 1, 9 - index, 1 if index == 0 else 0
            entry = (index in (0, 2), following, 1 if index == 0 else 2, 1 + (index == 0))
            copied = (counter, index, flags | 2, 0x100, index * 0x100)
            os.pwrite(fd, struct.pack("<BxHHHQHHIQ", *entry, *copied), at + 32 + 32 * index)
    return fd


# Made anew for each message
KINDS = {
    "inflight": new_region,
    "inflight-packed": new_packed_region,
    "memory": lambda: new_file(REGION),
    "short": lambda: new_file(0x1000),
    "empty": lambda: new_file(0),
    "huge": lambda: new_file(2**62),
    "eventfd": lambda: os.eventfd(0),
    "full": lambda: os.eventfd(0xFFFF_FFFF, os.EFD_SEMAPHORE),
    "pipe": lambda: pipe_end(1),
    "pipe-out": lambda: pipe_end(0),
    "socket": lambda: socket.socket().detach(),
    "alone": lambda: socket.socket(socket.AF_UNIX).detach(),
    "channel": lambda: channel(b""),
    "channel-answers": lambda: channel(ANSWER),
    "channel-babbles": lambda: channel(b"\1" * 40),
    "directory": lambda: os.open("/", os.O_RDONLY),
    "read-only": lambda: read_only(REGION),
    "named-eventfd": lambda: opath(os.eventfd(0)),
    "named-memory": lambda: opath(new_file(REGION)),
}


def send(request: int, payload: bytes, *kinds: str, need_reply: bool = False) -> Any:
    return ("send", int(request), need_reply, payload, list(kinds))


def good_vring(index: int, base: int) -> list[Any]:
    at = USER + index * RING
    return [
        send(FrontendRequest.SET_VRING_NUM, spec.VRING_STATE.pack(index, SIZE)),
        send(FrontendRequest.SET_VRING_BASE, spec.VRING_STATE.pack(index, base)),
        send(
            FrontendRequest.SET_VRING_ADDR,
            spec.VRING_ADDR.pack(index, 0, at, at + 0x800, at + 0x400, index * RING + 0x800),
        ),
        send(FrontendRequest.SET_VRING_CALL, spec.U64.pack(index), "eventfd"),
        send(FrontendRequest.SET_VRING_KICK, spec.U64.pack(index), "eventfd"),
        send(FrontendRequest.SET_VRING_ENABLE, spec.VRING_STATE.pack(index, 1)),
    ]


def good_start(packed: int = 0) -> list[Any]:
    protocol, features = OFFER.protocol_features, OFFER.features & ~NOT_USED | packed
    region = spec.MEMORY_REGION.pack(0, REGION, USER, 0)
    return [
        send(FrontendRequest.SET_PROTOCOL_FEATURES, spec.U64.pack(protocol)),
        send(FrontendRequest.SET_FEATURES, spec.U64.pack(features)),
        send(FrontendRequest.SET_MEM_TABLE, spec.MEMORY_HEADER.pack(1, 0) + region, "memory"),
    ]


def good_set_up(base: int) -> list[Any]:
    """What a front-end that behaves sends."""
    return good_start() + good_vring(0, base) + good_vring(1, base)


def kept_set_up(base: int) -> list[Any]:
    """The same of one that keeps what is in flight."""
    region = spec.INFLIGHT.pack(REGION, 0, 2 * PAIRS, SIZE)
    kept = send(FrontendRequest.SET_INFLIGHT_FD, region, "inflight", need_reply=True)
    return [*good_start(), kept, *good_vring(0, base), *good_vring(1, base)]


def kept_packed_set_up(slot: int) -> list[Any]:
    """The same with packed rings."""
    region = spec.INFLIGHT.pack(REGION, 0, 2 * PAIRS, SIZE)
    kept = send(FrontendRequest.SET_INFLIGHT_FD, region, "inflight-packed", need_reply=True)
    start = good_start(Feature.RING_PACKED.mask)
    return [*start, kept, *good_vring(0, 0x8000 | slot), *good_vring(1, 0x8000 | slot)]
