# SPDX-License-Identifier: Apache-2.0
"""The dirty log: one bit for each page of guest memory that we wrote (vhost-user "Migration").

QEMU clears bits while others are set in the same byte, and all devices share one log: so bits are
set by an atomic or. Most pages written have been marked already, so the bit is read first, which
keeps the cache line shared. That read must not overtake the write to the page: QEMU might clear the
bit after the read, and copy the page before the write arrives. So a full fence comes before it.

A page that the log has no room for is counted, never marked elsewhere. The same is true of an IOVA
without a translation: behind an IOMMU, every address that is marked is translated, page by page.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ovs_vhost_plugin.jit.atomics import fence, load_relaxed, or_u8
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
    MEMORY_T,
    NET_T,
    VRING_T,
    Memory,
    Net,
    Vring,
    int64,
    uint64,
    void,
)
from ovs_vhost_plugin.jit.ring.buffers import find_region

_PAGE_SHIFT = np.uint64(12)


@kernel(void(MEMORY_T, NET_T, uint64, int64), inline=True)
def _mark_physical(memory: Memory, net: Net, address: Any, length: int) -> None:
    """Mark the pages of guest physical [address, +length); `length` is not 0."""
    log = memory.log
    page = int64(address >> _PAGE_SHIFT)
    last = int64((address + uint64(length - 1)) >> _PAGE_SHIFT)
    while page <= last:
        if page >= 8 * len(log):
            net.faults[int64(Fault.LOG_TOO_SMALL)] += 1
            return
        bit = 1 << (page & 7)
        if load_relaxed(log, page >> 3) & bit == 0:
            or_u8(log, page >> 3, bit)
        page += 1


@kernel(void(MEMORY_T, NET_T, uint64, int64))
def mark(memory: Memory, net: Net, address: Any, length: int) -> None:
    """Mark the pages of guest [address, +length), if there is a log.

    The caller has put a fence between its writes and this, one fence for many marks.
    """
    if len(memory.log) == 0 or length <= 0:
        return
    if not net.state[0]["cfg_iommu"]:
        _mark_physical(memory, net, address, length)
        return
    before = len(memory.regions) - net.state[0]["cfg_log_rows"]
    while length > 0:
        i = find_region(memory.regions, before, 0, address)
        if i < 0:
            net.faults[int64(Fault.LOG_TOO_SMALL)] += 1
            return
        region = memory.regions[i]
        offset = address - region["guest"]
        part = min(length, int64(region["size"] - offset))
        _mark_physical(memory, net, region["host"] + offset, part)
        address = address + uint64(part)
        length -= part


@kernel(void(VRING_T, MEMORY_T, NET_T, int64, int64))
def mark_used(ring: Vring, memory: Memory, net: Net, offset: int, length: int) -> None:
    """Mark [offset, +length) of the used ring, if the front-end wants it logged."""
    state = ring.state[0]
    if state["log_used"]:
        fence()
        mark(memory, net, state["log_guest"] + uint64(offset), length)
