# SPDX-License-Identifier: Apache-2.0
"""The inflight region of a split ring, which its front-end keeps.

The region is the front-end's memory. It is written by the specification's steps (vhost-user
"Inflight I/O tracking"), and never read back while the ring runs. Our own words have the chains in
flight, which come back in the order in which they were popped. A ring's state has the address of
these words, 0 if there is no region: two more arrays in each group of a ring's, or a call that
takes one, would cost every other ring a tenth of its speed.

A process that is killed has made its stores up to some point of the program's order. So before a
chain is used, its counter is stored and then its mark. A batch is listed before it is flushed, and
its marks are cleared afterwards. If the used index is ahead of the region's, the list shows which
marks are left over.
"""

from __future__ import annotations

from ovs_vhost_plugin.common.inflight_layout import SPLIT
from ovs_vhost_plugin.jit.atomics import (
    load_i64_at,
    load_u16_at,
    store_i64_at,
    store_u16_at,
)
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import int64, offset_of, void

# Byte offsets in the region, and in an entry of it
_LAST_BATCH_HEAD = offset_of(SPLIT.header, "last_batch_head")
_USED_IDX = offset_of(SPLIT.header, "used_idx")
_ENTRIES, _ENTRY = SPLIT.header.itemsize, SPLIT.entry.itemsize
_INFLIGHT = offset_of(SPLIT.entry, "inflight")  # with the padding behind it, it is 16 bits
_NEXT = offset_of(SPLIT.entry, "next")
_COUNTER = offset_of(SPLIT.entry, "counter")

REGION, COUNT, SIZE, HEADS = 0, 1, 2, 3
"""Our words: the region's address, the next counter, the ring's size, the heads in flight.

A head is at its avail index modulo the size. The avail ring may not have the heads any more that
were in flight when this worker took the ring over."""


@kernel(int64(int64, int64), inline=True)
def head_at(words: int, index: int) -> int:
    """The head of the chain in flight that was offered at an avail index."""
    slot = index & (load_i64_at(words + 8 * SIZE) - 1)
    return int64(load_i64_at(words + 8 * (HEADS + slot)))


@kernel(int64(int64, int64), inline=True)
def _entry(words: int, head: int) -> int:
    return int64(load_i64_at(words + 8 * REGION) + _ENTRIES + _ENTRY * head)


@kernel(void(int64, int64, int64, int64))
def take(words: int, avail: int, index: int, count: int) -> None:
    """Record `count` chains as in flight, from avail index `index` on of the ring at `avail`.

    A head outside the ring is not recorded; the ring breaks when that head is parsed.
    """
    size = load_i64_at(words + 8 * SIZE)
    for i in range(index, index + count):
        slot = i & (size - 1)
        head = int64(load_u16_at(avail + 2 * slot))
        store_i64_at(words + 8 * (HEADS + slot), head)
        if head < size:
            counter = load_i64_at(words + 8 * COUNT)
            store_i64_at(words + 8 * COUNT, counter + 1)
            store_i64_at(_entry(words, head) + _COUNTER, counter)
            store_u16_at(_entry(words, head) + _INFLIGHT, 1)


@kernel(void(int64, int64, int64))
def link(words: int, end: int, count: int) -> None:
    """List the `count` chains up to avail index `end`, which are about to be flushed."""
    region = load_i64_at(words + 8 * REGION)
    for index in range(end - count, end):
        # (the first of a batch links to the previous batch, and that link is never read)
        store_u16_at(_entry(words, head_at(words, index)) + _NEXT, head_at(words, index - 1))
        store_u16_at(region + _LAST_BATCH_HEAD, head_at(words, index))


@kernel(void(int64, int64, int64, int64))
def settle(words: int, end: int, count: int, used: int) -> None:
    """Clear the marks of `count` chains up to `end`, flushed by used index `used`."""
    for index in range(end - count, end):
        store_u16_at(_entry(words, head_at(words, index)) + _INFLIGHT, 0)
    store_u16_at(load_i64_at(words + 8 * REGION) + _USED_IDX, used)
