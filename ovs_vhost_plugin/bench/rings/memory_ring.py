# SPDX-License-Identifier: Apache-2.0
"""A ring of any layout in this process's own memory, driven by storing a few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.recovery.journal import WORDS

SIZE = 256
HEADER = 12
MERGEABLE_BUFFER = 1526
"""Bytes of a receive buffer: header and frame without a VLAN tag, as in Linux and QEMU."""

_FIRST_PIECE = HEADER + 42
"""Bytes of the first of an indirect chain's two buffers, up to a UDP header's."""
_TABLE = 2 * 16
# flags of a descriptor: virtio 1.2, 2.7.5 and 2.8.13
_NEXT, _WRITE, _INDIRECT, _AVAIL = 1, 2, 4, 1 << 7


@dataclass(frozen=True, slots=True)
class RingKind:
    """The driver's negotiated features."""

    packed: bool = False
    in_order: bool = False
    indirect: bool = False

    def descriptor(self, address: int, length: int, flags: int, link: int = 0) -> tuple[int, int]:
        """A descriptor's two words; `link` is the next descriptor, or a packed ring's buffer id."""
        flags_at, link_at = (48, 32) if self.packed else (32, 48)
        return address, length | flags << flags_at | link << link_at


class MemoryRing:
    """A ring of SIZE descriptors and its queue; chain i is descriptor i.

    A chain is one buffer, or an indirect table of two. A transmit ring's buffers hold a header and
    the `frames` in turn. In a packed ring all chains are available, once. To make n chains of a
    split ring available, add n to `ring.avail[1]`, again and again.
    """

    def __init__(self, frames: Sequence[bytes] | None = None, kind: RingKind | None = None) -> None:
        kind = kind or RingKind()
        writes = frames is None
        buffers = [bytes(HEADER) + frame for frame in frames or [bytes(MERGEABLE_BUFFER)]]
        spacing = max(map(len, buffers)) + 63 & ~63
        guest = np.zeros(SIZE * (spacing + _TABLE), np.uint8)
        self.buffers = guest[: SIZE * spacing].reshape(SIZE, spacing)
        tables = guest[SIZE * spacing :].view(np.uint64).reshape(SIZE, 2, 2)
        desc = np.zeros((SIZE, 2), np.uint64)
        both = _WRITE if writes else 0
        offered = _AVAIL if kind.packed else 0
        for i in range(SIZE):
            data = buffers[i % len(buffers)]
            self.buffers[i, : len(data)] = np.frombuffer(data, np.uint8)
            address, length, flags = spacing * i, len(data), both
            if kind.indirect:
                chained = both if kind.packed else both | _NEXT
                tables[i, 0] = kind.descriptor(address, _FIRST_PIECE, chained, link=1)
                rest = address + _FIRST_PIECE, length - _FIRST_PIECE
                tables[i, 1] = kind.descriptor(*rest, both)
                address, length, flags = SIZE * spacing + _TABLE * i, _TABLE, _INDIRECT
            link = i if kind.packed else 0
            desc[i] = kind.descriptor(address, length, flags | offered, link)
        self.ring = _vring(kind, desc, writes=writes)
        self.queue = fresh.new_queue()
        region = np.array([(0, guest.nbytes, guest.ctypes.data)], layout.REGION_DTYPE)
        self.memory = layout.Memory(fresh.region_table(region), np.zeros(0, np.uint8))


def _vring(kind: RingKind, desc: np.ndarray, *, writes: bool) -> layout.Vring:
    state = np.zeros(1, layout.RING_DTYPE)
    fixed = {"size": SIZE, "enabled": 1, "writes": writes, "kick_fd": -1, "call_fd": -1}
    features = {"packed": kind.packed, "in_order": kind.in_order, "indirect": kind.indirect}
    for name, value in (fixed | features).items():
        state[name] = value
    journal = np.zeros(WORDS, np.int64)
    if kind.packed:  # event areas that disable notifications
        avail, used = np.zeros(2, np.uint16), np.zeros(2, np.uint16)
        return layout.Vring(desc.reshape(-1), avail, used, np.zeros(0, np.uint32), state, journal)
    avail = np.zeros(3 + SIZE, np.uint16)
    avail[2 : 2 + SIZE] = np.arange(SIZE)
    used = np.zeros(4 + 4 * SIZE, np.uint16)
    elements = used[2:].view(np.uint32)[: 2 * SIZE]
    return layout.Vring(desc.reshape(-1), avail, used, elements, state, journal)


def new_net(fd: int) -> layout.Net:
    """A pair's record beside its rings: the tap `fd`, mergeable buffers, no offloads."""
    net = fresh.new_net()
    for name, value in {"cfg_tap_fd": fd, "cfg_header_size": HEADER, "cfg_mergeable": 1}.items():
        net.state[name] = value
    return net
