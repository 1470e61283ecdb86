# SPDX-License-Identifier: Apache-2.0
"""The chains of a packed ring: descriptors that follow each other in it (virtio 1.2, 2.8.6).

Read as in `chain.py`: each word once, only the copy is used, and every walk has a budget. The
buffer id is that of the last descriptor. An indirect table has no links either (2.8.7): all of its
descriptors are the chain, and of their flags only F_WRITE counts, in a receive ring.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ovs_vhost_plugin.jit.atomics import load_relaxed
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
    QUEUE_T,
    REGIONS_T,
    VRING_T,
    Queue,
    Records,
    Vring,
    int64,
    uint64,
)
from ovs_vhost_plugin.jit.result import failure
from ovs_vhost_plugin.jit.ring.chain import F_INDIRECT, F_NEXT, take_buffer, take_table

# 2.8.13: the second word of struct pvirtq_desc is len (32), id (16), flags (16)
F_AVAIL, F_USED = 1 << 7, 1 << 15
_LENGTH, _ID = np.uint64(0xFFFFFFFF), np.uint64(0xFFFF)
_ID_AT, _FLAGS_AT = np.uint64(32), np.uint64(48)


@kernel(int64(VRING_T, int64), inline=True)
def slot_of(ring: Vring, position: int) -> int:
    """The slot in the ring of a position."""
    size: int = ring.state[0]["size"]
    return position if position < size else position - size


@kernel(int64(VRING_T, int64, int64), inline=True)
def advance(ring: Vring, position: int, count: int) -> int:
    """The position `count` descriptors further on, at most once around."""
    position += count
    around = 2 * ring.state[0]["size"]
    return position if position < around else position - around


@kernel(int64(VRING_T, int64, uint64), inline=True)
def is_available(ring: Vring, position: int, word: Any) -> int:
    """Whether a descriptor with this second word is available at `position`: 1, 0 or a fault.

    Available: F_AVAIL says the wrap counter, F_USED its opposite (2.8.1). If both say it the
    descriptor was used in this round, which nobody but us may say.
    """
    flags = int64(word >> _FLAGS_AT) & (F_AVAIL | F_USED)
    first = position < ring.state[0]["size"]
    if flags == (F_AVAIL if first else F_USED):
        return 1
    return failure(Fault.WRAP_COUNTER_WRONG) if flags == (F_AVAIL | F_USED if first else 0) else 0


@kernel(int64(VRING_T, uint64, int64, REGIONS_T, QUEUE_T, int64), inline=True)
def _take_indirect(
    ring: Vring, address: Any, length: int, regions: Records, queue: Queue, at: int
) -> int:
    """Take all buffers of an indirect table: the next free iovec or a fault."""
    entries = take_table(regions, address, length, queue, at)
    if entries < 0:
        return entries
    writes = ring.state[0]["writes"]
    for i in range(entries):
        buffer = load_relaxed(queue.table, 2 * i)
        word = load_relaxed(queue.table, 2 * i + 1)
        # DPDK's driver says F_WRITE of the header it sends (virtio-user, 22.11); reading is no harm
        flags = int64(word >> _FLAGS_AT) if writes else 0
        at = take_buffer(regions, queue, at, buffer, int64(word & _LENGTH), flags, writes)
        if at < 0:
            return at
    return at


@kernel(int64(VRING_T, uint64, int64, REGIONS_T, QUEUE_T), inline=True)
def walk(ring: Vring, word: Any, budget: int, regions: Records, queue: Queue) -> int:
    """Parse the chain at `next_pop` into iovecs behind the held ones: how many, or a fault.

    `word` is the second one of its first descriptor, `budget` the most descriptors it may have.
    Leaves its buffer id and the number of its descriptors in `queue.state`. The caller has made
    room for HELD_IOVECS_MAX iovecs, and holds the chain or overwrites it.
    """
    size = ring.state[0]["size"]
    writes = ring.state[0]["writes"]
    held = queue.state[0]
    held["walked"] = 0
    position = ring.state[0]["next_pop"]
    at: int = held["end"]
    for slots in range(1, budget + 1):
        address = load_relaxed(ring.desc, 2 * slot_of(ring, position))
        length = int64(word & _LENGTH)
        flags = int64(word >> _FLAGS_AT)
        if flags & F_INDIRECT:
            if not ring.state[0]["indirect"]:
                return failure(Fault.INDIRECT_NOT_NEGOTIATED)
            if flags & F_NEXT or slots > 1:
                return failure(Fault.INDIRECT_WITH_NEXT)
            at = _take_indirect(ring, address, length, regions, queue, at)
        else:
            at = take_buffer(regions, queue, at, address, length, flags, writes)
        if at < 0:
            return at
        if flags & F_NEXT == 0:
            held["id"] = int64(word >> _ID_AT & _ID)
            held["slots"] = slots
            return at - held["end"] if held["id"] < size else failure(Fault.ID_OUT_OF_RANGE)
        position = advance(ring, position, 1)
        word = load_relaxed(ring.desc, 2 * slot_of(ring, position) + 1)
        if is_available(ring, position, word) <= 0:
            return failure(Fault.NEXT_NOT_AVAILABLE)
    return failure(Fault.CHAIN_LOOPS)
