# SPDX-License-Identifier: Apache-2.0
"""The journal: words in which a ring's kernels record what the next worker cannot read in the ring.

They are in a file that the daemon keeps. After a worker was killed, at any instruction, the next
worker finishes the chains that were begun (`resume.py`) and goes on behind them. The journal
records two things. First, that a frame, or a batch of them, goes to the bridge, *before* it goes: a
frame that went must not go again, so a frame in between counts as sent. Second, for a packed ring,
which has no index, its position and the used descriptors that are to be flushed, before the first
of their bytes is written over the driver's own descriptors.

A split ring needs no more: its used index says the rest. A process that is killed has made its
stores up to some point of the program's order, and none after it. So an order among the stores is
enough; no word is ever half written.
"""

from __future__ import annotations

from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import CHAINS, int64

IDENTITY = 0
"""Two words: the worker's name of this ring; zeros: no ring."""
FLUSHED = 2
"""Packed: the position up to which used descriptors were flushed."""
BEGUN = 3
"""The index or position up to which chains are begun | number of entries << 32."""
DEVICE_EVENT, DEVICE_EVENT_BEFORE = 4, 5
"""Packed: the device event area (off_wrap | flags << 16), and its previous value."""
ENTRIES = 8
"""Packed: the first of the used descriptors to be flushed, as made by `entry`."""
WORDS = 2048
"""The words of one ring's journal, so that each journal begins on a page of its own."""
MOST_ENTRIES = WORDS - ENTRIES

assert WORDS * 8 % 4096 == 0
assert MOST_ENTRIES >= CHAINS

_COUNT_AT = 32
# A length is 32 bits, a position 16, and an id, below the size of at most 32768, 15: no sign.
_POSITION_AT, _ID_AT = 32, 48
_HALF, _LENGTH = 0xFFFF, 0xFFFFFFFF


@kernel(int64(int64, int64), inline=True)
def begun_word(end: int, count: int) -> int:
    """The word BEGUN: it changes as a whole."""
    return end | count << _COUNT_AT


@kernel(int64(int64), inline=True)
def begun_end(begun: int) -> int:
    """The index or position in the word BEGUN."""
    return begun & _HALF


@kernel(int64(int64), inline=True)
def begun_entries(begun: int) -> int:
    """The number of entries in the word BEGUN; a wrong number may be negative."""
    return begun >> _COUNT_AT


@kernel(int64(int64, int64, int64), inline=True)
def entry(position: int, buffer_id: int, written: int) -> int:
    """An entry for a used descriptor that is to be flushed at `position`."""
    return written | position << _POSITION_AT | buffer_id << _ID_AT


@kernel(int64(int64), inline=True)
def position_of(shown: int) -> int:
    """An entry's position in the ring."""
    return shown >> _POSITION_AT & _HALF


@kernel(int64(int64), inline=True)
def id_of(shown: int) -> int:
    """An entry's buffer id."""
    return shown >> _ID_AT & _HALF


@kernel(int64(int64), inline=True)
def written_of(shown: int) -> int:
    """The bytes written into an entry's chain."""
    return shown & _LENGTH
