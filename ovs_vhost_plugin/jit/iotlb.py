# SPDX-License-Identifier: Apache-2.0
"""Where the device is behind an IOMMU: an address without a translation is asked for.

With ACCESS_PLATFORM guest addresses are IOVAs (vhost-user "IOMMU support"). The translations that
there are take the place of the memory regions, so that chains are walked as ever, and a chain
that meets an address which none of them covers is no fault: it is left where it is, the worker is
told once, and the ring waits. The translation comes with a start of the ring, as everything that
rings depend on does, and the chain is walked anew.
"""

from __future__ import annotations

from typing import Any

from ovs_vhost_plugin.jit.chain import find_region
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
    MEMORY,
    NET_T,
    QUEUE_T,
    READ,
    VRING,
    WRITE,
    Memory,
    Net,
    Queue,
    Vring,
    boolean,
    int64,
    uint64,
)
from ovs_vhost_plugin.jit.syscalls import write_event


@kernel(boolean(MEMORY, QUEUE_T, uint64, int64, int64))
def _allowed(memory: Memory, queue: Queue, address: Any, length: int, access: int) -> bool:
    """Whether `access` is allowed to all of [address, +length); else `missed` says where not."""
    while length > 0:
        region = memory.regions[find_region(memory.regions, address)]
        if region["access"] & uint64(access) == 0:
            queue.state[0]["missed"] = address
            queue.state[0]["missed_access"] = access
            return False
        part = min(length, int64(region["size"] - (address - region["guest"])))
        address += uint64(part)
        length -= part
    return True


@kernel(int64(VRING, MEMORY, QUEUE_T, int64))
def check(ring: Vring, memory: Memory, queue: Queue, pieces: int) -> int:
    """Judge the chain that `walk` has just parsed by what translations allow: `pieces` or -fault.

    Its iovecs get the guest physical addresses by which they are logged (vhost-user "Migration").
    """
    held = queue.state[0]
    at, table = held["end"], held["table_bytes"]
    held["table_bytes"] = 0
    if not _allowed(memory, queue, held["table_at"], table, READ):
        return -Fault.INDIRECT_OUTSIDE_MEMORY
    access = WRITE if ring.state[0]["writes"] else READ
    for i in range(at, at + pieces):
        if not _allowed(memory, queue, queue.guest[i], queue.iov[i]["len"], access):
            return -Fault.ADDRESS_OUTSIDE_MEMORY
    for i in range(at, at + pieces):
        region = memory.regions[find_region(memory.regions, queue.guest[i])]
        queue.guest[i] = region["logged"] + (queue.guest[i] - region["guest"])
    return pieces


@kernel(int64(VRING, QUEUE_T, NET_T, int64))
def ask(ring: Vring, queue: Queue, net: Net, fault: int) -> int:
    """Have the worker ask for a translation, if that is what is missing: 0 then, else `fault`."""
    outside = fault == Fault.ADDRESS_OUTSIDE_MEMORY or fault == Fault.INDIRECT_OUTSIDE_MEMORY
    held = queue.state[0]
    if not outside or not ring.state[0]["iommu"] or held["missed_access"] == 0:
        return fault
    held["table_bytes"] = 0
    if not held["asked"]:
        held["asked"] = 1
        write_event(net.state[0]["fault_fd"], net.scratch)
    return 0


@kernel(boolean(QUEUE_T))
def waits(queue: Queue) -> bool:
    """Whether the next chain waits for a translation: then no kick can help."""
    return bool(queue.state[0]["asked"] != 0)
