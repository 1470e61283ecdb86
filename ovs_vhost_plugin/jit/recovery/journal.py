# SPDX-License-Identifier: Apache-2.0
"""The words in which a ring's kernels note what the ring cannot tell; they outlive a worker.

They are in a file that the daemon keeps, so after a worker was killed, at whatever instruction, the
next one finishes what was begun (`resume.py`) and goes on behind it. Two things have to be noted.
That a frame goes to the bridge, *before* it goes: a frame that went may not go again, so one in
between counts as sent. And of a packed ring, which has no index, where it stands and what is to be
shown in it, before the first byte of that is written over the driver's own descriptors.

A split ring needs no more: its used index says the rest. A process that is killed has made its
stores up to some point of the program's order, and none after it, so an order among the stores is
all that is needed; no word is ever half written.
"""

from __future__ import annotations

from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import CHAINS, int64

IDENTITY = 0
"""Two words: which ring this is about, as the worker names rings; zeros: none."""
FLUSHED = 2
"""Packed: the position up to which the driver was shown used descriptors."""
BEGUN = 3
"""How far the ring is dealt with (an index or a position) | number of entries << 32."""
DEVICE_EVENT, DEVICE_EVENT_BEFORE = 4, 5
"""Packed: what the device event area says (off_wrap | flags << 16), and what it said before."""
ENTRIES = 8
"""Packed: from here on what is to be shown, as `entry` makes it."""
WORDS = 2048
"""Of one ring's journal, so that each begins on a page of its own."""
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
    """Up to where."""
    return begun & _HALF


@kernel(int64(int64), inline=True)
def begun_entries(begun: int) -> int:
    """How many entries; a wrong one may be negative."""
    return begun >> _COUNT_AT


@kernel(int64(int64, int64, int64), inline=True)
def entry(position: int, buffer_id: int, written: int) -> int:
    """A used descriptor that is yet to be shown at `position`."""
    return written | position << _POSITION_AT | buffer_id << _ID_AT


@kernel(int64(int64), inline=True)
def position_of(shown: int) -> int:
    """Where an entry belongs."""
    return shown >> _POSITION_AT & _HALF


@kernel(int64(int64), inline=True)
def id_of(shown: int) -> int:
    """Its buffer id."""
    return shown >> _ID_AT & _HALF


@kernel(int64(int64), inline=True)
def written_of(shown: int) -> int:
    """Bytes written into its chain."""
    return shown & _LENGTH
