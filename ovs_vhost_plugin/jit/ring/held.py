# SPDX-License-Identifier: Apache-2.0
"""The chains that a ring holds: parsed, not yet given back, oldest first.

Their iovecs are consecutive in `Queue.iov`, so that one readv or writev takes many chains:

    iov      0      first                          end
             | free | oldest chain | next | newest | free: the next chain, a spill buffer |
    chains          head           .. count of them, a ring of CHAINS

A run is what drivers offer nearly always: chains of one buffer each. `split.py` and `packed.py`
parse it with all state in registers, and it is held as a whole. Elsewhere state is read again after
each write, as the compiler cannot know that a write is not into that state. A run ends at the first
chain that is anything else: of several buffers, in an indirect table, not wholly in one region, or
faulty. `pop_avail` parses that one in the general way, and finds the fault.

Indices of iovecs and chains are made unsigned on the packet path: otherwise numba would check each
access for Python's negative indices.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovs_vhost_plugin.jit.atomics import copy_in, copy_out
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
    CHAINS,
    HELD_IOVECS_MAX,
    IOVEC_ROOM,
    QUEUE_T,
    U8_T,
    VRING_T,
    Queue,
    Vring,
    boolean,
    int64,
    uint64,
    void,
)
from ovs_vhost_plugin.jit.ring.buffers import prefetch_buffer

IOVECS_FULL = 1
"""The result of `pop_avail` if the next chain's iovecs are too many for one system call."""


@kernel(void(QUEUE_T), inline=True)
def make_room(queue: Queue) -> None:
    """Leave room behind the held iovecs for a chain and a spill buffer."""
    held = queue.state[0]
    first, end = held["first"], held["end"]
    if end + HELD_IOVECS_MAX < IOVEC_ROOM:
        return
    for i in range(first, end):
        queue.iov[1 + i - first]["base"] = queue.iov[i]["base"]
        queue.iov[1 + i - first]["len"] = queue.iov[i]["len"]
        queue.guest[1 + i - first] = queue.guest[i]
    held["first"] = 1
    held["end"] = 1 + end - first


@kernel(boolean(QUEUE_T, int64, int64, int64, int64), inline=True)
def hold(queue: Queue, iovecs: int, length: int, head: int, slots: int) -> bool:
    """Hold the chain whose `iovecs` are behind the held ones; False: that would be too many.

    `length`, `head`, `slots`: as in CHAIN_DTYPE.
    """
    held = queue.state[0]
    if held["end"] - held["first"] + iovecs > HELD_IOVECS_MAX:
        return False
    chain = queue.chains[(held["head"] + held["count"]) & (CHAINS - 1)]
    chain["head"] = head
    chain["iovecs"] = iovecs
    chain["length"] = length
    chain["slots"] = slots
    held["end"] += iovecs
    held["count"] += 1
    held["length"] += length
    return True


@kernel(void(QUEUE_T), inline=True)
def release(queue: Queue) -> None:
    """Release the oldest chain."""
    held = queue.state[0]
    chain = queue.chains[uint64(held["head"])]
    held["first"] += chain["iovecs"]
    held["length"] -= chain["length"]
    held["head"] = (held["head"] + 1) & (CHAINS - 1)
    held["count"] -= 1


@kernel(void(QUEUE_T, int64, int64, U8_T, int64, int64), inline=True)
def scatter(
    queue: Queue, at: int, skip: int, source: NDArray[np.uint8], index: int, length: int
) -> None:
    """Copy private bytes to the iovecs from `at` on, `skip` bytes in. The iovecs have the room."""
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
    """Copy `length` bytes of the iovecs from `at` on, which have as many, to a private array."""
    while length > 0:
        iovec = queue.iov[uint64(at)]
        part = min(length, iovec["len"])
        copy_in(target, index, iovec["base"], part)
        index += part
        length -= part
        at += 1


@kernel(boolean(VRING_T, QUEUE_T, int64), inline=True)
def begins_run(ring: Vring, queue: Queue, chains: int) -> bool:
    """Whether to try a run, where `chains` are to be held in all.

    To begin one costs as much as it saves of some chains, and an in-flight region is written chain
    by chain.
    """
    return bool(queue.state[0]["count"] == 0 and chains > 1 and ring.state[0]["tracked"] == 0)


@kernel(int64(QUEUE_T, int64), inline=True)
def room_for_run(queue: Queue, chains: int) -> int:
    """The most chains of a run, where `chains` are to be held in all; below 0 for none.

    `held.make_room` was called before.
    """
    held = queue.state[0]
    return int64(min(chains - held["count"], HELD_IOVECS_MAX - (held["end"] - held["first"])))


@kernel(void(QUEUE_T, int64, int64, int64, uint64, int64, int64, int64), inline=True)
def put_chain(
    queue: Queue, at: int, place: int, host: int, address: Any, length: int, head: int, writes: int
) -> None:
    """Put a chain into iovec `at` and, modulo CHAINS, chain `place`.

    host, address  of its buffer: in this process, and in the guest
    head           as in CHAIN_DTYPE
    """
    prefetch_buffer(host, writes)
    iovec = queue.iov[uint64(at)]
    iovec["base"] = host
    iovec["len"] = length
    queue.guest[uint64(at)] = address
    chain = queue.chains[uint64(place & (CHAINS - 1))]
    chain["head"] = head
    chain["iovecs"] = 1
    chain["length"] = length
    chain["slots"] = 1


@kernel(void(QUEUE_T, int64, int64), inline=True)
def hold_run(queue: Queue, count: int, length: int) -> None:
    """Hold the `count` chains that were put; `length`: the bytes of all held chains then."""
    held = queue.state[0]
    held["end"] += count
    held["count"] += count
    held["length"] = length
