# SPDX-License-Identifier: Apache-2.0
"""A ring in this process's own memory, whose driver offers the same buffers again and again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ovs_vhost_plugin.jit import layout
from ovs_vhost_plugin.jit.journal import WORDS

SIZE = 256
HEADER = 12
MERGEABLE_BUFFER = 1526
"""Bytes of a receive buffer: header and frame without a VLAN tag, as Linux and QEMU have them."""


class MemoryRing:
    """A split ring of SIZE descriptors and its queue; chain i is descriptor i, one buffer.

    A transmit ring's buffers hold a header and the `frames` in turn. To offer n chains a kernel
    adds n to `ring.avail[1]`.
    """

    def __init__(self, frames: Sequence[bytes] | None = None) -> None:
        writes = frames is None
        buffers = [bytes(HEADER) + frame for frame in frames or [bytes(MERGEABLE_BUFFER)]]
        spacing = max(map(len, buffers)) + 63 & ~63
        self.buffers = np.zeros((SIZE, spacing), np.uint8)
        desc = np.zeros((SIZE, 2), np.uint64)
        avail = np.zeros(3 + SIZE, np.uint16)
        for i in range(SIZE):
            data = buffers[i % len(buffers)]
            self.buffers[i, : len(data)] = np.frombuffer(data, np.uint8)
            # virtio 1.2, 2.7.5: addr; then len, flags (2: device-writable), next
            desc[i] = spacing * i, len(data) | (2 << 32 if writes else 0)
            avail[2 + i] = i
        used = np.zeros(4 + 4 * SIZE, np.uint16)
        state = np.zeros(1, layout.RING)
        fixed = {"size": SIZE, "enabled": 1, "writes": writes, "kick_fd": -1, "call_fd": -1}
        for name, value in fixed.items():
            state[name] = value
        elements = used[2:].view(np.uint32)[: 2 * SIZE]
        journal = np.zeros(WORDS, np.int64)
        self.ring = layout.Vring(desc.reshape(-1), avail, used, elements, state, journal)
        self.queue = layout.new_queue()
        region = np.array([(0, self.buffers.nbytes, self.buffers.ctypes.data)], layout.REGION)
        self.memory = layout.Memory(layout.region_table(region), np.zeros(0, np.uint8))


def new_net(fd: int) -> layout.Net:
    """What a pair has beside its rings: the tap `fd`, mergeable buffers, no offloads."""
    net = layout.new_net()
    for name, value in {"tap_fd": fd, "header_size": HEADER, "mergeable": 1}.items():
        net.state[name] = value
    return net
