# SPDX-License-Identifier: Apache-2.0
"""Turns guest buffers into host iovecs: each address is looked up once, for one use of the result.

The chains of split and packed rings (`split_chain.py`, `packed_chain.py`) are made of buffers.
Every function takes the index of the next free iovec and returns the next free iovec afterwards,
or a fault: nothing is kept of a chain that fails.
"""

from __future__ import annotations

from errno import EFAULT
from typing import Any

import numpy as np

from ovs_vhost_plugin.jit.atomics import copy_in, prefetch, prefetch_write
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
    HELD_IOVECS_MAX,
    QUEUE_T,
    REGIONS_T,
    Queue,
    Records,
    boolean,
    int64,
    uint64,
    void,
)
from ovs_vhost_plugin.jit.result import failure
from ovs_vhost_plugin.jit.ring.descriptor import DESCRIPTOR_BYTES, F_WRITE

_CACHE_LINE = 64
_LAST_ADDRESS = np.uint64(0xFFFFFFFFFFFFFFFF)


@kernel(int64(REGIONS_T, int64, int64, uint64), inline=True)
def find_region(regions: Records, before: int, behind: int, address: Any) -> int:
    """Index of the region that holds guest `address`, or -EFAULT.

    Regions are sorted by guest address. There may be hundreds of regions (CONFIGURE_MEM_SLOTS), and
    each buffer is looked up, so the search is binary. The first `before` rows and the last `behind`
    are for other uses of addresses (see `iotlb.py`) and are skipped.
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


@kernel(boolean(uint64, int64, uint64, uint64), inline=True)
def is_inside(address: Any, length: int, guest: Any, size: Any) -> bool:
    """Whether guest [address, +length), which is not empty, is in the region [guest, +size)."""
    offset = address - guest
    return bool(offset < size and uint64(length) <= size - offset)


@kernel(void(int64, int64), inline=True)
def prefetch_buffer(host: int, writes: int) -> None:
    """Prefetch the first lines of a buffer while the rest of the burst is parsed.

    They are in the cache of the driver's processor. Two, as a header often ends with the first.
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

    A buffer that crosses into the next region of guest memory becomes two iovecs, as regions are
    mapped apart. `writes`: the device will write it. If no region holds an address, `iotlb_missed`
    is set to that address.
    """
    if address > _LAST_ADDRESS - uint64(length - 1):
        return failure(Fault.ADDRESS_WRAPS)
    while True:
        i = find_region(regions, before, behind, address)
        if i < 0:
            queue.state[0]["iotlb_missed"] = address
            return failure(Fault.ADDRESS_OUTSIDE_MEMORY)
        if at - queue.state[0]["end"] >= HELD_IOVECS_MAX:
            return failure(Fault.CHAIN_TOO_LONG)
        region = regions[uint64(i)]
        offset = int64(address - region["guest"])
        part = min(length, int64(region["size"] - (address - region["guest"])))
        host = int64(region["host"]) + offset
        prefetch_buffer(host, writes)
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
def copy_table(regions: Records, address: Any, length: int, queue: Queue, at: int) -> int:
    """Copy the indirect table at guest `address` to `queue.table`; return its entries or a fault.

    The iovecs from `at` on hold its translation, until the table's own buffers take their place.
    """
    if length == 0:
        return failure(Fault.INDIRECT_EMPTY)
    if length % DESCRIPTOR_BYTES:
        return failure(Fault.INDIRECT_LENGTH)
    if length > 8 * len(queue.table):
        return failure(Fault.INDIRECT_TOO_LARGE)
    lookup = queue.state[0]
    before, behind = lookup["iotlb_tables_before"], lookup["iotlb_tables_behind"]
    stop = add_buffer(regions, before, behind, address, length, queue, at, 0)
    if stop < 0:
        outside = stop == failure(Fault.ADDRESS_OUTSIDE_MEMORY)
        return failure(Fault.INDIRECT_OUTSIDE_MEMORY) if outside else stop
    done = 0
    bytes_of_table = queue.table.view(np.uint8)
    while at < stop:
        iovec = queue.iov[uint64(at)]
        copy_in(bytes_of_table, done, iovec["base"], iovec["len"])
        done += iovec["len"]
        at += 1
    return length // DESCRIPTOR_BYTES


@kernel(int64(REGIONS_T, QUEUE_T, int64, uint64, int64, int64, int64), inline=True)
def take_buffer(
    regions: Records, queue: Queue, at: int, address: Any, length: int, flags: int, writes: int
) -> int:
    """Put a direct descriptor's buffer into iovecs from `at` on; return the next free or a fault.

    `flags` are the descriptor's; `writes` is the ring's.
    """
    if (flags & F_WRITE != 0) != (writes != 0):
        if writes and at > queue.state[0]["end"]:
            return failure(Fault.READABLE_AFTER_WRITABLE)
        return failure(Fault.WRONG_DIRECTION)
    if length == 0:
        return failure(Fault.ZERO_LENGTH)
    behind = queue.state[0]["iotlb_behind"]
    return add_buffer(regions, 0, behind, address, length, queue, at, writes)
