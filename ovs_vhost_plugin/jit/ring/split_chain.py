# SPDX-License-Identifier: Apache-2.0
"""The chains of a split ring: descriptors linked by `next` (virtio 1.2, 2.7.5).

The driver may change a descriptor at any time, so each word is read once, and an indirect table is
copied before it is read. Every walk is bounded by the entries of the table, which ends loops, and
by the iovecs that one readv or writev takes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
    FOUR_T,
    QUEUE_T,
    REGIONS_T,
    THREE_T,
    U64_T,
    VRING_T,
    Queue,
    Records,
    Vring,
    int64,
)
from ovs_vhost_plugin.jit.result import failure
from ovs_vhost_plugin.jit.ring.buffers import copy_table, take_buffer
from ovs_vhost_plugin.jit.ring.descriptor import (
    F_INDIRECT,
    F_NEXT,
    address_at,
    length_of,
    split_flags,
    split_next,
    word_at,
)


@kernel(THREE_T(U64_T, int64, int64, VRING_T, REGIONS_T, QUEUE_T, int64, int64), inline=True)
def _follow(
    table: NDArray[np.uint64],
    entries: int,
    index: int,
    ring: Vring,
    regions: Records,
    queue: Queue,
    at: int,
    nested: int,
) -> tuple[int, int, int]:
    """Follow a chain from descriptor `index` of `table`, into iovecs from `at` on.

    Return the next free iovec or a fault, the buffers' bytes, and the entries of the indirect table
    in `queue.table` that ends the chain, or 0. `nested`: `table` is that indirect table.
    """
    total = int64(0)
    writes = ring.state[0]["writes"]
    for _ in range(entries):
        if index >= entries:
            return failure(Fault.NEXT_OUT_OF_RANGE), total, 0
        address = address_at(table, index)
        word = word_at(table, index)
        length = length_of(word)
        flags = split_flags(word)
        if flags & F_INDIRECT:
            if nested:
                return failure(Fault.INDIRECT_NESTED), total, 0
            if not ring.state[0]["indirect"]:
                return failure(Fault.INDIRECT_NOT_NEGOTIATED), total, 0
            if flags & F_NEXT:
                return failure(Fault.INDIRECT_WITH_NEXT), total, 0
            # 2.7.5.3.2: normal descriptors may come before it; its own F_WRITE is ignored.
            count = copy_table(regions, address, length, queue, at)
            return (at if count > 0 else count), total, count
        at = take_buffer(regions, queue, at, address, length, flags, writes)
        total += length
        if at < 0 or flags & F_NEXT == 0:
            return at, total, 0
        index = split_next(word)
    return failure(Fault.CHAIN_LOOPS), total, 0


@kernel(FOUR_T(VRING_T, int64, REGIONS_T, QUEUE_T), inline=True)
def walk(ring: Vring, head: int, regions: Records, queue: Queue) -> tuple[int, int, int, int]:
    """Parse the chain at `head` into iovecs behind the held ones.

    Return the number of iovecs or a fault, their bytes, `head`, and 1: the slots it takes in the
    avail ring. `held.make_room` was called before; the caller holds the chain or overwrites it.
    """
    size = ring.state[0]["size"]
    if head >= size:
        return failure(Fault.HEAD_OUT_OF_RANGE), 0, head, 1
    end = queue.state[0]["end"]
    at, length, entries = _follow(ring.desc, size, head, ring, regions, queue, end, 0)
    if at >= 0 and entries > 0:
        at, more, _ = _follow(queue.table, entries, 0, ring, regions, queue, at, 1)
        length += more
    return (at if at < 0 else at - end), length, head, 1
