# SPDX-License-Identifier: Apache-2.0
"""Puts the frames of the oldest chains into slots, to be written in one system call (`uring.py`).

Only frames that go as they are. One whose header fails its check, leaves work to be done here, or
lies in pieces ends the batch, as one of many buffers does: it goes by itself when it is the oldest.
"""

from __future__ import annotations

from ovs_vhost_plugin.common.uring import SLOTS
from ovs_vhost_plugin.jit.atomics import copy_in, copy_out
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
    CHAINS,
    HEADER_MAX,
    NET_T,
    QUEUE_T,
    Net,
    Queue,
    boolean,
    int64,
    uint64,
)
from ovs_vhost_plugin.jit.net import offload
from ovs_vhost_plugin.jit.uring import HEADER_AT, IOVECS, put_count, put_iovec, slot_at

LEAST = 4
"""Frames from which on a batch is faster than a system call for each (bench/README.md)."""


@kernel(boolean(QUEUE_T, NET_T, int64, int64, int64), inline=True)
def _take_header(queue: Queue, net: Net, at: int, iovecs: int, length: int) -> bool:
    """Copy the header that begins at iovec `at` to `net.header`: whether its frame goes as it is.

    The chain has `iovecs` iovecs, and `length` bytes behind the header.
    """
    size = net.state[0]["cfg_header_size"]
    first = queue.iov[uint64(at)]
    if length <= 0 or iovecs >= IOVECS or first["len"] < size:
        return False
    if first["len"] >= HEADER_MAX:
        copy_in(net.header, 0, first["base"], HEADER_MAX)  # of fixed length: no call
    else:
        copy_in(net.header, 0, first["base"], size)
    if offload.check_header(net.header, length, net.state) < 0:
        return False
    return not (
        offload.leaves_work(net.header) and offload.must_finish(net.header, length, net.state)
    )


@kernel(int64(QUEUE_T, NET_T))
def collect(queue: Queue, net: Net) -> int:
    """Fill slots from the oldest chains, which stay as they are; return how many, 0 if too few."""
    batch, size = net.state[0]["cfg_batch"], net.state[0]["cfg_header_size"]
    held = queue.state[0]
    at, count = held["first"], int64(0)
    while count < min(held["count"], SLOTS):
        chain = queue.chains[uint64(held["head"] + count & (CHAINS - 1))]
        if not _take_header(queue, net, at, chain["iovecs"], chain["length"] - size):
            break
        slot = slot_at(batch, count)
        copy_out(slot + HEADER_AT, net.header, 0, HEADER_MAX)
        put_iovec(slot, 0, slot + HEADER_AT, size)
        iovecs, skip = int64(1), size
        for _ in range(chain["iovecs"]):
            iovec = queue.iov[uint64(at)]
            if iovec["len"] > skip:
                put_iovec(slot, iovecs, iovec["base"] + skip, iovec["len"] - skip)
                iovecs += 1
            skip = 0
            at += 1
        put_count(batch, count, iovecs)
        count += 1
    return count if count >= LEAST else 0


@kernel(int64(QUEUE_T, int64), inline=True)
def drop_header(queue: Queue, size: int) -> int:
    """Leave the header out of the oldest chain; return its frame's first iovec."""
    at: int = queue.state[0]["first"]
    iovec = queue.iov[uint64(at)]
    if iovec["len"] == size:
        return at + 1
    iovec["base"] += size
    iovec["len"] -= size
    return at
