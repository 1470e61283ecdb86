# SPDX-License-Identifier: Apache-2.0
"""Translations behind an IOMMU: the worker asks for a missing one, and the ring waits.

With ACCESS_PLATFORM guest addresses are IOVAs (vhost-user "IOMMU support"). A ring's region table
then has translations, in parts. First come those that allow the ring's access to its buffers; for
a receive ring, then those that allow reading indirect tables; last all translations, for the dirty
log, which has guest physical addresses ("Migration"). So chains are walked in the same way, and a
ring without an IOMMU pays nothing.

A missing translation is no fault. The chain stays in the ring, the worker is told once, and the
ring waits. When the worker has the translation it starts the ring anew, and the chain is walked
again.
"""

from __future__ import annotations

import numpy as np

from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
    NET_T,
    QUEUE_T,
    REGION_DTYPE,
    Net,
    Queue,
    Records,
    boolean,
    int64,
)
from ovs_vhost_plugin.jit.result import fault_of
from ovs_vhost_plugin.jit.syscalls import write_event

READ, WRITE = 1, 2
"""The device's access to an address."""
BUFFER, TABLE = 1, 2
"""Values of `iotlb_asked`: `iotlb_missed` is the address of a buffer or an indirect table."""


@kernel(int64(QUEUE_T, NET_T, int64))
def request_translation(queue: Queue, net: Net, result: int) -> int:
    """Make the worker ask for a translation if `result` says that one is missing.

    Return 0 then, else `result`.
    """
    fault = fault_of(result)
    outside = fault == Fault.ADDRESS_OUTSIDE_MEMORY or fault == Fault.INDIRECT_OUTSIDE_MEMORY
    held = queue.state[0]
    if not outside or not net.state[0]["cfg_iommu"]:
        return result
    if not held["iotlb_asked"]:
        held["iotlb_asked"] = BUFFER if fault == Fault.ADDRESS_OUTSIDE_MEMORY else TABLE
        write_event(net.state[0]["cfg_fault_fd"], net.scratch)
    return 0


@kernel(boolean(QUEUE_T))
def waits_for_translation(queue: Queue) -> bool:
    """Whether the next chain waits for a translation, so that no kick can help."""
    return bool(queue.state[0]["iotlb_asked"] != 0)


def translated_table(rows: Records, *, writes: bool) -> Records:
    """The region table of a ring; `writes`: it is a receive ring.

    `rows` have the fields guest (an IOVA), size, host, logged and access, sorted by `guest`;
    `logged` is the guest physical address, `access` READ, WRITE or both.
    """
    parts = []
    for access, place in (*_uses(writes=writes), (READ | WRITE, "logged")):
        chosen = _allowing(rows, access)
        part = np.zeros(len(chosen), REGION_DTYPE)
        part["guest"], part["size"], part["host"] = chosen["guest"], chosen["size"], chosen[place]
        parts.append(part)
    return np.concatenate(parts)


def look_up(queue: Queue, rows: Records, *, writes: bool) -> None:
    """Set the parts of the ring's `translated_table` that a queue looks addresses up in."""
    lengths = [len(_allowing(rows, access)) for access, _ in _uses(writes=writes)]
    queue.state["iotlb_behind"] = sum(lengths[1:]) + len(rows)
    queue.state["iotlb_tables_before"] = sum(lengths[:-1])
    queue.state["iotlb_tables_behind"] = len(rows)


def _uses(*, writes: bool) -> tuple[tuple[int, str], ...]:
    """The uses of addresses: buffers, and indirect tables if their access differs."""
    return ((WRITE, "host"), (READ, "host")) if writes else ((READ, "host"),)


def _allowing(rows: Records, access: int) -> Records:
    allowing: Records = rows[rows["access"] & np.uint64(access) != 0]
    return allowing
