# SPDX-License-Identifier: Apache-2.0
"""A split ring's chains in flight, in the region that its front-end keeps.

The region is the front-end's memory: written here as the specification's steps say (vhost-user
"Inflight I/O tracking"), and never read back while the ring runs. What is in flight is known from
words of our own: chains come back in the order in which they were taken. A ring has their address,
0 if nobody keeps anything of it: two more arrays in each group of a ring's, or a call that takes
one, would cost every other ring a tenth of its speed.

A process that is killed has made its stores up to some point of the program's order. So before a
chain is used its counter is there and then its mark; a batch is listed before the driver is shown
it, and its marks go afterwards: whoever finds the used index ahead of the region's knows by the
list which marks are left over.
"""

from __future__ import annotations

from ovs_vhost_plugin.jit.atomics import (
    load_i64_at,
    load_u16_at,
    store_i64_at,
    store_u16_at,
)
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import int64, void

VERSION, DESC_NUM, LAST_BATCH_HEAD, USED_IDX = 8, 10, 12, 14
"""Where in struct QueueRegionSplit, in bytes."""
ENTRIES = 16
"""struct DescStateSplit of each descriptor, from here on."""
ENTRY, NEXT, COUNTER = 16, 6, 8
"""Its bytes, and where in it; it begins with the mark, a byte and padding."""

REGION, COUNT, SIZE, HEADS = 0, 1, 2, 3
"""Our words: the region's address, the next counter, the ring's size, and the heads of the chains
that are in flight, each at its avail index modulo the size: what was in flight when this worker
took the ring over need not be in the avail ring any more."""


@kernel(int64(int64, int64), inline=True)
def head_at(words: int, index: int) -> int:
    """The head of the chain in flight that was offered at an avail index."""
    slot = index & (load_i64_at(words + 8 * SIZE) - 1)
    return int64(load_i64_at(words + 8 * (HEADS + slot)))


@kernel(int64(int64, int64), inline=True)
def _entry(words: int, head: int) -> int:
    return int64(load_i64_at(words + 8 * REGION) + ENTRIES + ENTRY * head)


@kernel(void(int64, int64, int64, int64))
def take(words: int, avail: int, index: int, count: int) -> None:
    """Note that `count` chains are in flight from avail index `index` on, of the ring at `avail`.

    One that there cannot be is not, and ends the ring when its turn comes.
    """
    size = load_i64_at(words + 8 * SIZE)
    for i in range(index, index + count):
        slot = i & (size - 1)
        head = int64(load_u16_at(avail + 2 * slot))
        store_i64_at(words + 8 * (HEADS + slot), head)
        if head < size:
            counter = load_i64_at(words + 8 * COUNT)
            store_i64_at(words + 8 * COUNT, counter + 1)
            store_i64_at(_entry(words, head) + COUNTER, counter)
            store_u16_at(_entry(words, head), 1)


@kernel(void(int64, int64, int64))
def link(words: int, end: int, count: int) -> None:
    """List the `count` chains up to avail index `end`: the driver is about to be shown them."""
    region = load_i64_at(words + 8 * REGION)
    for index in range(end - count, end):
        # (what follows the first of a batch belongs to the one before, and is never looked at)
        store_u16_at(_entry(words, head_at(words, index)) + NEXT, head_at(words, index - 1))
        store_u16_at(region + LAST_BATCH_HEAD, head_at(words, index))


@kernel(void(int64, int64, int64, int64))
def settle(words: int, end: int, count: int, used: int) -> None:
    """Note that they are not in flight any more: the driver was shown them, by `used`."""
    for index in range(end - count, end):
        store_u16_at(_entry(words, head_at(words, index)), 0)
    store_u16_at(load_i64_at(words + 8 * REGION) + USED_IDX, used)
