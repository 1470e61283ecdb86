# SPDX-License-Identifier: Apache-2.0
"""Runs of chains of one buffer each, which is what drivers offer nearly always.

`split.py` and `packed.py` parse a run with all state in registers. Elsewhere state is read again
after each write, as the compiler cannot know that a write is not into that state. A run ends at the
first chain that is anything else: of several buffers, in an indirect table, not wholly in one
region, or faulty. `pop_avail` parses that one in the general way, and finds the fault.
"""

from __future__ import annotations

from typing import Any

from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
    CHAINS,
    HELD_IOVECS_MAX,
    QUEUE_T,
    VRING_T,
    Queue,
    Vring,
    boolean,
    int64,
    uint64,
    void,
)
from ovs_vhost_plugin.jit.ring.buffers import prefetch_buffer


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


@kernel(boolean(uint64, int64, uint64, uint64), inline=True)
def is_inside(address: Any, length: int, guest: Any, size: Any) -> bool:
    """Whether guest [address, +length), which is not empty, is in the region [guest, +size)."""
    offset = address - guest
    return bool(offset < size and uint64(length) <= size - offset)


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
