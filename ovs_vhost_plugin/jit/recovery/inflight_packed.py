# SPDX-License-Identifier: Apache-2.0
"""The inflight region of a packed ring, which its front-end keeps.

As for split rings (`inflight_split.py`): the region is written by the steps of vhost-user's
"Inflight I/O tracking", and never read back while the ring runs. The tracker also has all that is
needed of it. The region has a copy of each descriptor in flight, which the ring may not have: a
back-end that gives chains back out of order overwrites descriptors of other chains. Free entries
form a list.

A process that is killed has made its stores up to some point of the program's order. So fields that
belong together are stored in one piece: the list's heads, and both positions in the ring.
"""

from __future__ import annotations

from ovs_vhost_plugin.common.inflight_layout import PACKED, VERSION, InflightLayout
from ovs_vhost_plugin.jit.atomics import load_i64_at, store_i64_at, store_u16_at
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import int64, offsets, record, void

TRACKER = InflightLayout(
    header=record(
        "region",  # address of the ring's part of the region
        "next_counter",  # DescStatePacked.counter of the next chain that is taken
        "size",  # entries of the ring
        "number",  # entries of the region, and of the tracker
        "free",  # first entry of the free list; `number`: the list is empty
        "free_count",  # length of the free list
        "first",  # entry of the tracker whose `head` is the oldest chain in flight
        "held",  # number of chains in flight
        "known",  # of these, the chains that were recorded before they were popped
        "flushed",  # position up to which the driver has seen used descriptors
    ),
    entry=record(
        "next",  # DescStatePacked.next
        "last",  # DescStatePacked.last, if a chain in flight begins here
        "num",  # DescStatePacked.num, likewise
        "head",  # of a chain in flight, oldest first from `first` on, around the end; -1: no room
    ),
)
"""The tracker, from which the region is written.

A chain that is longer than the free list has no room, and is not in the region."""

# Byte offsets
_REGION, _NEXT_COUNTER, _SIZE = offsets(TRACKER.header, "region", "next_counter", "size")
_NUMBER, _FREE, _FREE_COUNT = offsets(TRACKER.header, "number", "free", "free_count")
_FIRST, _HELD, _KNOWN = offsets(TRACKER.header, "first", "held", "known")
(_FLUSHED,) = offsets(TRACKER.header, "flushed")
_OUR_NEXT, _OUR_LAST, _OUR_NUM, _OUR_HEAD = offsets(TRACKER.entry, "next", "last", "num", "head")
# The first of version, desc_num, both free heads; of both used_idx, both wrap counters: two words
_FREE_HEADS, _USED = offsets(PACKED.header, "version", "used_idx")
_INFLIGHT, _NEXT, _LAST, _NUM = offsets(PACKED.entry, "inflight", "next", "last", "num")
_COUNTER, _ID, _ADDR = offsets(PACKED.entry, "counter", "id", "addr")  # id, flags, len: a word
# Sizes in bytes
_HEADER, _ENTRY = PACKED.header.itemsize, PACKED.entry.itemsize
_OUR_HEADER, _OUR_ENTRY = TRACKER.header.itemsize, TRACKER.entry.itemsize

_LOW = 0xFFFFFFFF


@kernel(int64(int64, int64), inline=True)
def _entry(tracker: int, index: int) -> int:
    """The address of an entry of the region."""
    return int64(load_i64_at(tracker + _REGION) + _HEADER + _ENTRY * index)


@kernel(int64(int64, int64), inline=True)
def _our_entry(tracker: int, index: int) -> int:
    """The address of an entry of the tracker."""
    return tracker + _OUR_HEADER + _OUR_ENTRY * index


@kernel(int64(int64, int64), inline=True)
def _place_of(tracker: int, number: int) -> int:
    """The address of the head of chain `number` in flight, counted from the oldest."""
    index = (load_i64_at(tracker + _FIRST) + number) % load_i64_at(tracker + _NUMBER)
    return _our_entry(tracker, index) + _OUR_HEAD


@kernel(int64(int64, int64), inline=True)
def head_at(tracker: int, number: int) -> int:
    """The head of chain `number` in flight, counted from the oldest; -1: it had no room."""
    return int64(load_i64_at(_place_of(tracker, number)))


@kernel(void(int64, int64, int64, int64), inline=True)
def write_free_heads(region: int, number: int, free: int, old: int) -> None:
    """Write the free list's head, and its head before the batch, in one store.

    The store has the version and the number of entries too: it marks the region as used.
    """
    store_i64_at(region + _FREE_HEADS, VERSION | number << 16 | free << 32 | old << 48)


@kernel(void(int64, int64, int64, int64), inline=True)
def write_used_idx(region: int, size: int, position: int, old: int) -> None:
    """Write the used position, and the position that the driver has seen for certain, in one store.

    `size`: of the ring. A position is a slot and its wrap counter (`ring/position.py`).
    """
    value = position | 1 << 32 if position < size else position - size
    value |= old << 16 | 1 << 40 if old < size else (old - size) << 16
    store_i64_at(region + _USED, value)


@kernel(void(int64, int64, int64), inline=True)
def _put_free(tracker: int, free: int, old: int) -> None:
    """Write both heads of the free list into the tracker's region."""
    number = load_i64_at(tracker + _NUMBER)
    write_free_heads(load_i64_at(tracker + _REGION), number, free, old)


@kernel(void(int64, int64, int64), inline=True)
def _put_used(tracker: int, position: int, old: int) -> None:
    """Write both used positions into the tracker's region."""
    size = load_i64_at(tracker + _SIZE)
    write_used_idx(load_i64_at(tracker + _REGION), size, position, old)


@kernel(void(int64, int64, int64, int64))
def take(tracker: int, desc: int, slot: int, count: int) -> None:
    """Record the chain of `count` descriptors from `slot` on of the ring at `desc` as in flight.

    The descriptors are read a second time for that: this worker does not use the record.
    """
    known, free_count = load_i64_at(tracker + _KNOWN), load_i64_at(tracker + _FREE_COUNT)
    if known > 0:
        store_i64_at(tracker + _KNOWN, known - 1)
        return
    head = load_i64_at(tracker + _FREE) if free_count >= count else int64(-1)
    held = load_i64_at(tracker + _HELD)
    store_i64_at(_place_of(tracker, held), head)
    store_i64_at(tracker + _HELD, held + 1)
    if head < 0:
        return
    counter = load_i64_at(tracker + _NEXT_COUNTER)
    store_u16_at(_entry(tracker, head) + _NUM, 0)
    store_i64_at(_entry(tracker, head) + _COUNTER, counter)
    store_i64_at(tracker + _NEXT_COUNTER, counter + 1)
    store_u16_at(_entry(tracker, head) + _INFLIGHT, 1)
    free = last = head
    for i in range(count):
        last = free
        if i == count - 1:
            store_u16_at(_entry(tracker, head) + _LAST, last)
        store_u16_at(_entry(tracker, head) + _NUM, i + 1)
        word = load_i64_at(desc + 16 * slot + 8)
        store_i64_at(_entry(tracker, last) + _ID, word >> 32 & _LOW | word << 32)
        store_i64_at(_entry(tracker, last) + _ADDR, load_i64_at(desc + 16 * slot))
        free = load_i64_at(_our_entry(tracker, last) + _OUR_NEXT)
        _put_free(tracker, free, free if i == count - 1 else head)
        slot = slot + 1 if slot + 1 < load_i64_at(tracker + _SIZE) else 0
    store_i64_at(tracker + _FREE, free)
    store_i64_at(tracker + _FREE_COUNT, free_count - count)
    store_i64_at(_our_entry(tracker, head) + _OUR_LAST, last)
    store_i64_at(_our_entry(tracker, head) + _OUR_NUM, count)


@kernel(void(int64, int64, int64))
def list_batch(tracker: int, count: int, position: int) -> None:
    """List the `count` oldest chains as free: they are about to be flushed.

    The ring is then used up to `position`.
    """
    old = free = load_i64_at(tracker + _FREE)
    for number in range(count):
        head = head_at(tracker, number)
        if head >= 0:
            last = load_i64_at(_our_entry(tracker, head) + _OUR_LAST)
            freed = load_i64_at(_our_entry(tracker, head) + _OUR_NUM)
            store_i64_at(_our_entry(tracker, last) + _OUR_NEXT, free)
            store_u16_at(_entry(tracker, last) + _NEXT, free)
            free = head
            store_i64_at(tracker + _FREE_COUNT, load_i64_at(tracker + _FREE_COUNT) + freed)
            _put_free(tracker, free, old)
    store_i64_at(tracker + _FREE, free)
    _put_used(tracker, position, load_i64_at(tracker + _FLUSHED))


@kernel(void(int64, int64, int64))
def clear_batch(tracker: int, count: int, position: int) -> None:
    """Clear the marks of the `count` oldest chains, which were flushed up to `position`."""
    for number in range(count):
        head = head_at(tracker, number)
        if head >= 0:
            store_u16_at(_entry(tracker, head) + _INFLIGHT, 0)
    free = load_i64_at(tracker + _FREE)
    _put_free(tracker, free, free)
    _put_used(tracker, position, position)
    first = (load_i64_at(tracker + _FIRST) + count) % load_i64_at(tracker + _NUMBER)
    store_i64_at(tracker + _FLUSHED, position)
    store_i64_at(tracker + _FIRST, first)
    store_i64_at(tracker + _HELD, load_i64_at(tracker + _HELD) - count)


@kernel(int64(int64))
def held(tracker: int) -> int:
    """The number of chains in flight."""
    return int64(load_i64_at(tracker + _HELD))
