# SPDX-License-Identifier: Apache-2.0
"""The inflight region of a split ring, which its front-end keeps.

The region is the front-end's memory. It is written by the specification's steps (vhost-user
"Inflight I/O tracking"), and never read back while the ring runs. Our own record, the tracker, has
the chains in flight, which come back in the order in which they were popped. A ring's state has the
address of the tracker, 0 if there is no region: two more arrays in each group of a ring's, or a
call that takes one, would cost every other ring a tenth of its speed.

A process that is killed has made its stores up to some point of the program's order. So before a
chain is used, its counter is stored and then its mark. A batch is listed before it is flushed, and
its marks are cleared afterwards. If the used index is ahead of the region's, the list shows which
marks are left over.
"""

from __future__ import annotations

from ovs_vhost_plugin.common.inflight_layout import SPLIT, InflightLayout
from ovs_vhost_plugin.jit.atomics import load_i64_at, load_u16_at, store_i64_at, store_u16_at
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import int64, offsets, record, void

TRACKER = InflightLayout(
    header=record(
        "region",  # address of the ring's part of the region
        "next_counter",  # DescStateSplit.counter of the next chain that is taken
        "size",  # entries of the ring, and of the tracker
    ),
    entry=record(
        "head",  # of the chain in flight whose avail index modulo the size is this entry's
    ),
)
"""The tracker, from which the region is written.

The avail ring need not have these heads any more: another back-end may have taken them."""

# Byte offsets
_REGION, _NEXT_COUNTER, _SIZE = offsets(TRACKER.header, "region", "next_counter", "size")
_LAST_BATCH_HEAD, _USED_IDX = offsets(SPLIT.header, "last_batch_head", "used_idx")
_INFLIGHT, _NEXT, _COUNTER = offsets(SPLIT.entry, "inflight", "next", "counter")
# Sizes in bytes
_HEADER, _ENTRY = SPLIT.header.itemsize, SPLIT.entry.itemsize
_OUR_HEADER, _OUR_ENTRY = TRACKER.header.itemsize, TRACKER.entry.itemsize


@kernel(int64(int64, int64), inline=True)
def _entry(tracker: int, head: int) -> int:
    """The address of an entry of the region."""
    return int64(load_i64_at(tracker + _REGION) + _HEADER + _ENTRY * head)


@kernel(int64(int64, int64), inline=True)
def _our_entry(tracker: int, index: int) -> int:
    """The address of the tracker's entry for an avail index: the head alone."""
    slot = index & (load_i64_at(tracker + _SIZE) - 1)
    return int64(tracker + _OUR_HEADER + _OUR_ENTRY * slot)


@kernel(int64(int64, int64), inline=True)
def head_at(tracker: int, index: int) -> int:
    """The head of the chain in flight that was offered at an avail index."""
    return int64(load_i64_at(_our_entry(tracker, index)))


@kernel(void(int64, int64, int64, int64))
def take(tracker: int, avail: int, index: int, count: int) -> None:
    """Record `count` chains as in flight, from avail index `index` on of the ring at `avail`.

    A head outside the ring is not recorded; the ring breaks when that head is parsed.
    """
    size = load_i64_at(tracker + _SIZE)
    for i in range(index, index + count):
        head = int64(load_u16_at(avail + 2 * (i & (size - 1))))
        store_i64_at(_our_entry(tracker, i), head)
        if head < size:
            counter = load_i64_at(tracker + _NEXT_COUNTER)
            store_i64_at(tracker + _NEXT_COUNTER, counter + 1)
            store_i64_at(_entry(tracker, head) + _COUNTER, counter)
            store_u16_at(_entry(tracker, head) + _INFLIGHT, 1)


@kernel(void(int64, int64, int64))
def list_batch(tracker: int, count: int, end: int) -> None:
    """List the `count` chains up to avail index `end`, which are about to be flushed."""
    region = load_i64_at(tracker + _REGION)
    for index in range(end - count, end):
        # (the first of a batch links to the previous batch, and that link is never read)
        store_u16_at(_entry(tracker, head_at(tracker, index)) + _NEXT, head_at(tracker, index - 1))
        store_u16_at(region + _LAST_BATCH_HEAD, head_at(tracker, index))


@kernel(void(int64, int64, int64, int64))
def clear_batch(tracker: int, count: int, end: int, used: int) -> None:
    """Clear the marks of the `count` chains up to `end`, which were flushed up to `used`."""
    for index in range(end - count, end):
        store_u16_at(_entry(tracker, head_at(tracker, index)) + _INFLIGHT, 0)
    store_u16_at(load_i64_at(tracker + _REGION) + _USED_IDX, used)
