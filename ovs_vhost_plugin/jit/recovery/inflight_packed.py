# SPDX-License-Identifier: Apache-2.0
"""The inflight region of a packed ring, which its front-end keeps.

As for split rings (`inflight_split.py`): the region is written by the steps of vhost-user's
"Inflight I/O tracking", and never read back while the ring runs. Our own words also have all that
is needed of it. The region has a copy of each descriptor in flight, which the ring may not have: a
back-end that gives chains back out of order overwrites descriptors of other chains. Free entries
form a list.

A process that is killed has made its stores up to some point of the program's order. So fields that
belong together are stored in one piece: the list's heads, and both positions in the ring.
"""

from __future__ import annotations

from ovs_vhost_plugin.common.inflight_layout import PACKED, VERSION
from ovs_vhost_plugin.jit.atomics import load_i64_at, store_i64_at, store_u16_at
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import int64, offset_of, void

# Byte offsets in the region, and in an entry of it
_FREE_HEADS = offset_of(PACKED.header, "version")  # of a word: with desc_num and both free heads
_USED = offset_of(PACKED.header, "used_idx")  # of a word: both used_idx, both wrap counters
_ENTRIES, _ENTRY = PACKED.header.itemsize, PACKED.entry.itemsize
_INFLIGHT = offset_of(PACKED.entry, "inflight")  # with the padding behind it, it is 16 bits
_NEXT = offset_of(PACKED.entry, "next")
_LAST = offset_of(PACKED.entry, "last")
_NUM = offset_of(PACKED.entry, "num")
_COUNTER = offset_of(PACKED.entry, "counter")
_ID = offset_of(PACKED.entry, "id")  # of a word: with flags and len
_ADDR = offset_of(PACKED.entry, "addr")

REGION, COUNT, SIZE, NUMBER, FREE, FREE_COUNT, FIRST, HELD, KNOWN, OLD_USED, LISTS = range(11)
"""Indices of our words, the last of which begins four lists of NUMBER words.

The words are the region's address, the next counter, the ring's size, the number of entries, the
free list's head and length, the oldest chain in flight, the number of chains in flight, the number
of those that were recorded before they were popped, and the flushed used position."""
NEXTS, LASTS, NUMS, HEADS = range(4)
"""The lists: each entry's `next`, each head's `last` and `num`, and the heads in flight.

The heads are oldest first, from FIRST on, around the end; -1 is a chain that had no room."""

_HALF, _LOW = 0xFFFF, 0xFFFFFFFF


@kernel(int64(int64, int64), inline=True)
def _get(words: int, index: int) -> int:
    return int64(load_i64_at(words + 8 * index))


@kernel(void(int64, int64, int64), inline=True)
def _put(words: int, index: int, value: int) -> None:
    store_i64_at(words + 8 * index, value)


@kernel(int64(int64, int64, int64), inline=True)
def _at(words: int, which: int, index: int) -> int:
    """The index in our words of element `index` of a list."""
    return LISTS + which * _get(words, NUMBER) + index


@kernel(int64(int64, int64), inline=True)
def _entry(words: int, index: int) -> int:
    return _get(words, REGION) + _ENTRIES + _ENTRY * index


@kernel(int64(int64, int64), inline=True)
def _head(words: int, number: int) -> int:
    """The head of chain `number` in flight, counted from the oldest."""
    index = (_get(words, FIRST) + number) % _get(words, NUMBER)
    return _get(words, _at(words, HEADS, index))


@kernel(void(int64, int64, int64), inline=True)
def _write_free_heads(words: int, free: int, old: int) -> None:
    """Write the free list's head, and its head before the batch."""
    known = VERSION | _get(words, NUMBER) << 16
    store_i64_at(_get(words, REGION) + _FREE_HEADS, known | free << 32 | old << 48)


@kernel(void(int64, int64, int64), inline=True)
def _write_used_idx(words: int, position: int, old: int) -> None:
    """Write the used position, and the position that the driver has seen for certain."""
    size = _get(words, SIZE)
    value = position | 1 << 32 if position < size else position - size
    value |= old << 16 | 1 << 40 if old < size else (old - size) << 16
    store_i64_at(_get(words, REGION) + _USED, value)


@kernel(void(int64, int64, int64, int64))
def take(words: int, desc: int, slot: int, count: int) -> None:
    """Record the chain of `count` descriptors from `slot` on of the ring at `desc` as in flight.

    The descriptors are read a second time for that: this worker does not use the record.
    """
    if _get(words, KNOWN) > 0:
        _put(words, KNOWN, _get(words, KNOWN) - 1)
        return
    head = _get(words, FREE) if _get(words, FREE_COUNT) >= count else int64(-1)
    end = (_get(words, FIRST) + _get(words, HELD)) % _get(words, NUMBER)
    _put(words, _at(words, HEADS, end), head)
    _put(words, HELD, _get(words, HELD) + 1)
    if head < 0:
        return
    store_u16_at(_entry(words, head) + _NUM, 0)
    store_i64_at(_entry(words, head) + _COUNTER, _get(words, COUNT))
    _put(words, COUNT, _get(words, COUNT) + 1)
    store_u16_at(_entry(words, head) + _INFLIGHT, 1)
    free = last = head
    for i in range(count):
        last = free
        if i == count - 1:
            store_u16_at(_entry(words, head) + _LAST, last)
        store_u16_at(_entry(words, head) + _NUM, i + 1)
        word = load_i64_at(desc + 16 * slot + 8)
        store_i64_at(_entry(words, last) + _ID, word >> 32 & _LOW | word << 32)
        store_i64_at(_entry(words, last) + _ADDR, load_i64_at(desc + 16 * slot))
        free = _get(words, _at(words, NEXTS, last))
        _write_free_heads(words, free, free if i == count - 1 else head)
        slot = slot + 1 if slot + 1 < _get(words, SIZE) else 0
    _put(words, FREE, free)
    _put(words, FREE_COUNT, _get(words, FREE_COUNT) - count)
    _put(words, _at(words, LASTS, head), last)
    _put(words, _at(words, NUMS, head), count)


@kernel(void(int64, int64, int64))
def supply(words: int, count: int, position: int) -> None:
    """List the `count` oldest chains as free: they are about to be flushed.

    The ring is then used up to `position`.
    """
    old = free = _get(words, FREE)
    for number in range(count):
        head = _head(words, number)
        if head >= 0:
            last = _get(words, _at(words, LASTS, head))
            _put(words, _at(words, NEXTS, last), free)
            store_u16_at(_entry(words, last) + _NEXT, free)
            free = head
            _put(words, FREE_COUNT, _get(words, FREE_COUNT) + _get(words, _at(words, NUMS, head)))
            _write_free_heads(words, free, old)
    _put(words, FREE, free)
    _write_used_idx(words, position, _get(words, OLD_USED))


@kernel(void(int64, int64, int64))
def settle(words: int, count: int, position: int) -> None:
    """Clear the marks of the `count` oldest chains, which were flushed up to `position`."""
    for number in range(count):
        head = _head(words, number)
        if head >= 0:
            store_u16_at(_entry(words, head) + _INFLIGHT, 0)
    _write_free_heads(words, _get(words, FREE), _get(words, FREE))
    _write_used_idx(words, position, position)
    _put(words, OLD_USED, position)
    _put(words, FIRST, (_get(words, FIRST) + count) % _get(words, NUMBER))
    _put(words, HELD, _get(words, HELD) - count)


@kernel(int64(int64))
def held(words: int) -> int:
    """The number of chains in flight."""
    return _get(words, HELD)
