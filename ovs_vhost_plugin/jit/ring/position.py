# SPDX-License-Identifier: Apache-2.0
"""Positions in a packed ring: a slot and a wrap counter in one number.

The driver makes descriptors available in ring order, and the device writes used ones in their
place. Two flags of a descriptor, compared with a wrap counter, say whose it is; each side toggles
its counter at the end of the ring (virtio 1.2, 2.8.1). A *position* is a slot and a wrap counter
together: it counts modulo twice the ring's size.

    position    0 .. size-1    size .. 2*size-1
    slot        0 .. size-1       0 .. size-1
    wrap        1                 0
"""

from __future__ import annotations

from typing import Any

from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import boolean, int64, uint64
from ovs_vhost_plugin.jit.result import failure
from ovs_vhost_plugin.jit.ring.descriptor import F_AVAIL, F_USED, packed_flags
from ovs_vhost_plugin.jit.ring.offsets import EVENT_WRAP


@kernel(int64(int64, int64), inline=True)
def slot_of(size: int, position: int) -> int:
    """The slot of a position."""
    return position if position < size else position - size


@kernel(boolean(int64, int64), inline=True)
def wrap_of(size: int, position: int) -> bool:
    """The wrap counter of a position."""
    return position < size


@kernel(int64(int64, int64, int64), inline=True)
def advance(size: int, position: int, count: int) -> int:
    """The position `count` descriptors further on, at most once around."""
    position += count
    return position if position < 2 * size else position - 2 * size


@kernel(int64(int64, int64, int64), inline=True)
def distance(size: int, start: int, end: int) -> int:
    """The number of descriptors from position `start` to `end`."""
    ahead = end - start
    return ahead if ahead >= 0 else ahead + 2 * size


@kernel(int64(int64, int64, uint64), inline=True)
def is_available(size: int, position: int, word: Any) -> int:
    """Whether a descriptor with this second word is available at `position`: 1, 0 or a fault.

    Available: F_AVAIL is the wrap counter, F_USED its opposite (2.8.1). If both are the wrap
    counter, the descriptor was used in this round, which only this device may write.
    """
    flags = packed_flags(word) & (F_AVAIL | F_USED)
    wrap = wrap_of(size, position)
    if flags == (F_AVAIL if wrap else F_USED):
        return 1
    return failure(Fault.WRAP_COUNTER_WRONG) if flags == (F_AVAIL | F_USED if wrap else 0) else 0


@kernel(boolean(int64, int64, uint64), inline=True)
def is_used(size: int, position: int, word: Any) -> bool:
    """Whether a descriptor with this second word was used: both flags are the wrap counter."""
    wanted = F_AVAIL | F_USED if wrap_of(size, position) else 0
    return bool(packed_flags(word) & (F_AVAIL | F_USED) == wanted)


@kernel(int64(int64, int64), inline=True)
def off_wrap(size: int, position: int) -> int:
    """The position in an event area's form (2.8.14)."""
    return slot_of(size, position) | (EVENT_WRAP if wrap_of(size, position) else 0)


@kernel(int64(int64, int64), inline=True)
def position_of_event(size: int, event: int) -> int:
    """The position in an event area. Its slot may be outside of the ring."""
    return (event & ~EVENT_WRAP) + (0 if event & EVENT_WRAP else size)


@kernel(boolean(int64, int64, int64, int64), inline=True)
def passes(size: int, event: int, new: int, old: int) -> bool:
    """Whether a position that goes from `old` to `new` passes that of an event (2.8.10)."""
    around = 2 * size
    return bool((new - event - 1) % around < (new - old) % around)
