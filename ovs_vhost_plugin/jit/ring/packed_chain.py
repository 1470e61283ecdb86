# SPDX-License-Identifier: Apache-2.0
"""The chains of a packed ring: consecutive descriptors of the ring (virtio 1.2, 2.8.6).

They are read as in `split_chain.py`: each word once, only the copy is used, and every walk has a
budget. The buffer id is that of the last descriptor. An indirect table has no links either (2.8.7):
all of its descriptors are the chain, and only their flag F_WRITE counts, in a receive ring.
"""

from __future__ import annotations

from typing import Any

from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
    FOUR_T,
    QUEUE_T,
    REGIONS_T,
    TWO_T,
    VRING_T,
    Queue,
    Records,
    Vring,
    int64,
    uint64,
)
from ovs_vhost_plugin.jit.result import failure
from ovs_vhost_plugin.jit.ring.buffers import copy_table, take_buffer
from ovs_vhost_plugin.jit.ring.descriptor import (
    F_INDIRECT,
    F_NEXT,
    address_at,
    length_of,
    packed_flags,
    packed_id,
    word_at,
)
from ovs_vhost_plugin.jit.ring.position import advance, is_available, slot_of


@kernel(TWO_T(VRING_T, uint64, int64, REGIONS_T, QUEUE_T, int64), inline=True)
def _take_indirect(
    ring: Vring, address: Any, length: int, regions: Records, queue: Queue, at: int
) -> tuple[int, int]:
    """Put all buffers of an indirect table into iovecs from `at` on.

    Return the next free iovec or a fault, and the buffers' bytes.
    """
    total = int64(0)
    entries = copy_table(regions, address, length, queue, at)
    if entries < 0:
        return entries, total
    writes = ring.state[0]["writes"]
    i = int64(0)
    while i < entries:
        buffer = address_at(queue.table, i)
        word = word_at(queue.table, i)
        # DPDK's driver sets F_WRITE on a header that it sends (virtio-user, 22.11); reading is safe
        flags = packed_flags(word) if writes else 0
        at = take_buffer(regions, queue, at, buffer, length_of(word), flags, writes)
        total += length_of(word)
        if at < 0:
            break
        i += 1
    return at, total


@kernel(FOUR_T(VRING_T, uint64, int64, REGIONS_T, QUEUE_T), inline=True)
def walk(
    ring: Vring, word: Any, budget: int, regions: Records, queue: Queue
) -> tuple[int, int, int, int]:
    """Parse the chain at `next_pop` into iovecs behind the held ones.

    Return the number of iovecs or a fault, their bytes, the buffer id, and the number of
    descriptors that the chain takes in the ring. `word` is the second word of its first descriptor,
    `budget` the most descriptors that it may have. `held.make_room` was called before; the caller
    holds the chain or overwrites it.
    """
    state = ring.state[0]
    writes = state["writes"]
    position = state["next_pop"]
    end: int = queue.state[0]["end"]
    at = end
    total = int64(0)
    for slots in range(1, budget + 1):
        address = address_at(ring.desc, slot_of(state["size"], position))
        length = length_of(word)
        flags = packed_flags(word)
        if flags & F_INDIRECT:
            if not state["indirect"]:
                return failure(Fault.INDIRECT_NOT_NEGOTIATED), 0, 0, 0
            if flags & F_NEXT or slots > 1:
                return failure(Fault.INDIRECT_WITH_NEXT), 0, 0, 0
            at, total = _take_indirect(ring, address, length, regions, queue, at)
        else:
            at = take_buffer(regions, queue, at, address, length, flags, writes)
            total += length
        if at < 0:
            return at, 0, 0, 0
        if flags & F_NEXT == 0:
            buffer_id = packed_id(word)
            if buffer_id >= state["size"]:
                return failure(Fault.ID_OUT_OF_RANGE), 0, 0, 0
            return at - end, total, buffer_id, slots
        position = advance(state["size"], position, 1)
        word = word_at(ring.desc, slot_of(state["size"], position))
        if is_available(state["size"], position, word) <= 0:
            return failure(Fault.NEXT_NOT_AVAILABLE), 0, 0, 0
    return failure(Fault.CHAIN_LOOPS), 0, 0, 0
