# SPDX-License-Identifier: Apache-2.0
"""A descriptor chain becomes a list of host iovecs: checked once, then only the copy is used.

Here are the chains of a split ring, and what those of a packed ring (`packed.py`) share with them.

The driver may change a descriptor at any time, so each word is read once, and an indirect table
is copied before it is looked at. Every walk is bounded: by the entries of the table, which ends
loops, and by the iovecs that one readv or writev takes. Nothing is kept of a chain that fails.

Places of iovecs and chains are made unsigned where they are used for each packet: numba would
otherwise have each access look for Python's negative indices.
"""

from __future__ import annotations

from errno import EFAULT
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovs_vhost_plugin.jit.atomics import copy_in, copy_out, load_relaxed, prefetch, prefetch_write
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
    CHAINS,
    HELD_IOVECS_MAX,
    IOVEC_ROOM,
    QUEUE_T,
    REGIONS_T,
    U8_T,
    U64_T,
    VRING_T,
    Queue,
    Records,
    Vring,
    int64,
    uint64,
    void,
)
from ovs_vhost_plugin.jit.result import failure

F_NEXT, F_WRITE, F_INDIRECT = 1, 2, 4
"""Flags of a descriptor (virtio 1.2, 2.7.5 and 2.8.13)."""
# 2.7.5: the second word of struct virtq_desc is len (32), flags (16), next (16)
_LENGTH = np.uint64(0xFFFFFFFF)
_FLAGS_AT, _FLAGS, _NEXT_AT = np.uint64(32), np.uint64(0xFFFF), np.uint64(48)
_DESCRIPTOR = 16
_CACHE_LINE = 64
_TOP = np.uint64(0xFFFFFFFFFFFFFFFF)


@kernel(int64(REGIONS_T, int64, int64, uint64), inline=True)
def find_region(regions: Records, before: int, behind: int, address: Any) -> int:
    """Index of the region that holds guest `address`, or -EFAULT; they are sorted by guest address.

    By halves: there may be hundreds of them (CONFIGURE_MEM_SLOTS), and each buffer is looked up.
    The rows `before` and `behind` those of this use are passed over.
    """
    low, high = before, len(regions) - behind
    while low < high:
        middle = (low + high) >> 1
        if regions[uint64(middle)]["guest"] <= address:
            low = middle + 1
        else:
            high = middle
    if low > before:
        region = regions[uint64(low - 1)]
        if address - region["guest"] < region["size"]:
            return low - 1
    return -EFAULT


@kernel(void(int64, int64), inline=True)
def _expect_buffer(host: int, writes: int) -> None:
    """Have the first lines of a buffer brought near, while the rest of the burst is parsed.

    They lie in the cache of the driver's processor. Two, as a header often ends where one does.
    """
    if writes:
        prefetch_write(host)
        prefetch_write(host + _CACHE_LINE)
    else:
        prefetch(host)
        prefetch(host + _CACHE_LINE)


@kernel(int64(REGIONS_T, int64, int64, uint64, int64, QUEUE_T, int64, int64), inline=True)
def add_buffer(
    regions: Records,
    before: int,
    behind: int,
    address: Any,
    length: int,
    queue: Queue,
    at: int,
    writes: int,
) -> int:
    """Put guest buffer [address, +length) into iovecs from `at` on: the next free one or a fault.

    A buffer that goes on in the next region of guest memory is elsewhere in this process's, and
    becomes two iovecs. `writes`: the device will write it. An address outside is left in `missed`.
    """
    if address > _TOP - uint64(length - 1):
        return failure(Fault.ADDRESS_WRAPS)
    while True:
        i = find_region(regions, before, behind, address)
        if i < 0:
            queue.state[0]["missed"] = address
            return failure(Fault.ADDRESS_OUTSIDE_MEMORY)
        if at - queue.state[0]["end"] >= HELD_IOVECS_MAX:
            return failure(Fault.CHAIN_TOO_LONG)
        region = regions[uint64(i)]
        offset = int64(address - region["guest"])
        part = min(length, int64(region["size"] - (address - region["guest"])))
        host = int64(region["host"]) + offset
        _expect_buffer(host, writes)
        place = uint64(at)
        queue.iov[place]["base"] = host
        queue.iov[place]["len"] = part
        queue.guest[place] = address
        at += 1
        length -= part
        if length == 0:
            return at
        address = address + uint64(part)


@kernel(int64(REGIONS_T, uint64, int64, QUEUE_T, int64), inline=True)
def take_table(regions: Records, address: Any, length: int, queue: Queue, at: int) -> int:
    """Copy the indirect table at guest `address` into `queue.table`: its entries or a fault.

    It is translated in the iovecs from `at` on, which the table's own buffers will then take.
    """
    if length == 0:
        return failure(Fault.INDIRECT_EMPTY)
    if length % _DESCRIPTOR:
        return failure(Fault.INDIRECT_LENGTH)
    if length > 8 * len(queue.table):
        return failure(Fault.INDIRECT_TOO_LARGE)
    held = queue.state[0]
    before, behind = held["tables_before"], held["tables_behind"]
    stop = add_buffer(regions, before, behind, address, length, queue, at, 0)
    if stop < 0:
        outside = stop == failure(Fault.ADDRESS_OUTSIDE_MEMORY)
        return failure(Fault.INDIRECT_OUTSIDE_MEMORY) if outside else stop
    done = 0
    bytes_of_table = queue.table.view(np.uint8)
    for i in range(at, stop):
        copy_in(bytes_of_table, done, queue.iov[i]["base"], queue.iov[i]["len"])
        done += queue.iov[i]["len"]
    return length // _DESCRIPTOR


@kernel(int64(REGIONS_T, QUEUE_T, int64, uint64, int64, int64, int64), inline=True)
def take_buffer(
    regions: Records, queue: Queue, at: int, address: Any, length: int, flags: int, writes: int
) -> int:
    """Put a direct descriptor's buffer into iovecs from `at` on: the next free one or a fault."""
    if (flags & F_WRITE != 0) != (writes != 0):
        if writes and at > queue.state[0]["end"]:
            return failure(Fault.READABLE_AFTER_WRITABLE)
        return failure(Fault.WRONG_DIRECTION)
    if length == 0:
        return failure(Fault.ZERO_LENGTH)
    held = queue.state[0]
    held["walked"] += length
    return add_buffer(regions, 0, held["behind"], address, length, queue, at, writes)


@kernel(int64(U64_T, int64, int64, VRING_T, REGIONS_T, QUEUE_T, int64, int64), inline=True)
def _follow(
    table: NDArray[np.uint64],
    entries: int,
    index: int,
    ring: Vring,
    regions: Records,
    queue: Queue,
    at: int,
    nested: int,
) -> int:
    """Follow a chain from descriptor `index` of `table`: the next free iovec or a fault.

    Leaves the entries of the indirect table that ends the chain in `queue.state`, or 0.
    """
    queue.state[0]["table"] = 0
    writes = ring.state[0]["writes"]
    for _ in range(entries):
        if index >= entries:
            return failure(Fault.NEXT_OUT_OF_RANGE)
        address = load_relaxed(table, 2 * index)
        word = load_relaxed(table, 2 * index + 1)
        length = int64(word & _LENGTH)
        flags = int64(word >> _FLAGS_AT & _FLAGS)
        if flags & F_INDIRECT:
            if nested:
                return failure(Fault.INDIRECT_NESTED)
            if not ring.state[0]["indirect"]:
                return failure(Fault.INDIRECT_NOT_NEGOTIATED)
            if flags & F_NEXT:
                return failure(Fault.INDIRECT_WITH_NEXT)
            # 2.7.5.3.2: normal descriptors may come before it; its own F_WRITE says nothing.
            count = take_table(regions, address, length, queue, at)
            queue.state[0]["table"] = count
            return at if count > 0 else count
        at = take_buffer(regions, queue, at, address, length, flags, writes)
        if at < 0 or flags & F_NEXT == 0:
            return at
        index = int64(word >> _NEXT_AT)
    return failure(Fault.CHAIN_LOOPS)


@kernel(int64(VRING_T, int64, REGIONS_T, QUEUE_T), inline=True)
def walk(ring: Vring, head: int, regions: Records, queue: Queue) -> int:
    """Parse the chain at `head` into iovecs behind the held ones: how many, or a fault.

    The caller has made room for HELD_IOVECS_MAX iovecs, and holds the chain or overwrites it.
    """
    size = ring.state[0]["size"]
    if head >= size:
        return failure(Fault.HEAD_OUT_OF_RANGE)
    end = queue.state[0]["end"]
    queue.state[0]["walked"] = 0
    at = _follow(ring.desc, size, head, ring, regions, queue, end, 0)
    entries = queue.state[0]["table"]
    if at >= 0 and entries > 0:
        at = _follow(queue.table, entries, 0, ring, regions, queue, at, 1)
    return at if at < 0 else at - end


@kernel(void(QUEUE_T), inline=True)
def make_room(queue: Queue) -> None:
    """Leave room behind the held iovecs for a chain and a spill buffer."""
    state = queue.state[0]
    first, end = state["first"], state["end"]
    if end + HELD_IOVECS_MAX < IOVEC_ROOM:
        return
    for i in range(first, end):
        queue.iov[1 + i - first]["base"] = queue.iov[i]["base"]
        queue.iov[1 + i - first]["len"] = queue.iov[i]["len"]
        queue.guest[1 + i - first] = queue.guest[i]
    state["first"] = 1
    state["end"] = 1 + end - first


@kernel(void(QUEUE_T, int64, int64), inline=True)
def hold(queue: Queue, head: int, iovecs: int) -> None:
    """Hold the chain that `walk` has just parsed."""
    state = queue.state[0]
    length = state["walked"]
    chain = queue.chains[(state["head"] + state["count"]) & (CHAINS - 1)]
    chain["head"] = head
    chain["iovecs"] = iovecs
    chain["length"] = length
    state["end"] += iovecs
    state["count"] += 1
    state["length"] += length


@kernel(void(QUEUE_T), inline=True)
def release(queue: Queue) -> None:
    """Let the oldest chain go."""
    state = queue.state[0]
    chain = queue.chains[uint64(state["head"])]
    state["first"] += chain["iovecs"]
    state["length"] -= chain["length"]
    state["head"] = (state["head"] + 1) & (CHAINS - 1)
    state["count"] -= 1


@kernel(void(QUEUE_T, int64, int64, U8_T, int64, int64), inline=True)
def scatter(
    queue: Queue, at: int, skip: int, source: NDArray[np.uint8], index: int, length: int
) -> None:
    """Copy private bytes to the iovecs from `at` on, `skip` bytes in; they have the room."""
    while skip >= queue.iov[uint64(at)]["len"]:
        skip -= queue.iov[uint64(at)]["len"]
        at += 1
    while length > 0:
        iovec = queue.iov[uint64(at)]
        part = min(length, iovec["len"] - skip)
        copy_out(iovec["base"] + skip, source, index, part)
        index += part
        length -= part
        skip = 0
        at += 1


@kernel(void(QUEUE_T, int64, U8_T, int64, int64), inline=True)
def gather(queue: Queue, at: int, target: NDArray[np.uint8], index: int, length: int) -> None:
    """Copy `length` bytes of the iovecs from `at` on into a private array; they hold as many."""
    while length > 0:
        iovec = queue.iov[uint64(at)]
        part = min(length, iovec["len"])
        copy_in(target, index, iovec["base"], part)
        index += part
        length -= part
        at += 1
