# SPDX-License-Identifier: Apache-2.0
"""Where a ring stands that is taken over from a worker that has ended, in whatever way.

The journal says what was promised, the ring says how much of that its driver was shown. Both are
others': a worker may have been taken over by its guest, so every word of its journal is checked
here before it is used, and a journal that does not fit the ring is not believed at all.
"""

from __future__ import annotations

from ovs_vhost_plugin.jit.atomics import load_acquire, load_relaxed, store_relaxed, store_release
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import MEMORY_T, NET_T, VRING_T, Memory, Net, Vring, boolean, int64
from ovs_vhost_plugin.jit.recovery.inflight_packed import held
from ovs_vhost_plugin.jit.recovery.inflight_split import head_at
from ovs_vhost_plugin.jit.recovery.journal import (
    ENTRIES,
    MOST_ENTRIES,
    PROMISED,
    PUBLISHED,
    SAID,
    SAID_BEFORE,
    count_of,
    end_of,
    position_of,
)
from ovs_vhost_plugin.jit.ring import packed, split
from ovs_vhost_plugin.jit.ring.packed_chain import advance, look, slot_of

_HALF = 0xFFFF
_NOT_THIS_RING = -1


@kernel(boolean(VRING_T))
def stands_at_base(ring: Vring) -> bool:
    """Whether no descriptor ahead of a ring's base is used already, in its round.

    Where the ring has gone on since its front-end learned the base, as one that lost its back-end
    has, there are such descriptors, unless the driver has made them available again by now.
    """
    state = ring.state[0]
    for i in range(state["size"]):
        position = advance(ring, state["next_avail"], i)
        word = load_relaxed(ring.desc, 2 * slot_of(ring, position) + 1)
        if look(ring, position, word) < 0:
            return False
    return True


@kernel(boolean(VRING_T))
def _said_so(ring: Vring) -> bool:
    """Whether the device event area has what was written there last; each half on its own."""
    said, before = ring.journal[SAID], ring.journal[SAID_BEFORE]
    event, flags = int64(load_relaxed(ring.used, 0)), int64(load_relaxed(ring.used, 1))
    return bool(
        (event == said & _HALF or event == before & _HALF)
        and (flags == said >> 16 or flags == before >> 16)
    )


@kernel(boolean(VRING_T, int64, int64, int64))
def _entries_fit(ring: Vring, first: int, total: int, count: int) -> bool:
    """Whether the journal's entries are for descriptors in order, among `total` from `first` on."""
    if packed.writes_one(ring):
        return True  # their positions are not used
    before = -1
    for i in range(count):
        position = position_of(ring.journal[ENTRIES + i])
        if position >= 2 * ring.state[0]["size"]:
            return False
        distance = packed.modulo(ring, position - first)
        if distance <= before or distance >= total or (i == 0 and distance > 0):
            return False
        before = distance
    return True


@kernel(int64(VRING_T, MEMORY_T, NET_T))
def _resume_packed(ring: Vring, memory: Memory, net: Net) -> int:
    state = ring.state[0]
    first, promise = ring.journal[PUBLISHED], ring.journal[PROMISED]
    end, count = end_of(promise), count_of(promise)
    around = 2 * state["size"]
    if not 0 <= first < around or end >= around or not 0 <= count <= MOST_ENTRIES:
        return _NOT_THIS_RING
    total = packed.modulo(ring, end - first)
    if total > state["size"] or (total > 0 and count == 0) or not _said_so(ring):
        return _NOT_THIS_RING
    tracked_at = state["published"]
    if state["tracked"] and first != tracked_at and end != tracked_at:
        return _NOT_THIS_RING
    state["next_avail"] = end
    if not stands_at_base(ring):
        return _NOT_THIS_RING
    if total > 0:
        # Once its first descriptor was shown all were; the driver may have it in use again.
        word = load_acquire(ring.desc, 2 * slot_of(ring, first) + 1)
        if look(ring, first, word) == 1:
            if not _entries_fit(ring, first, total, count):
                return _NOT_THIS_RING
            if state["tracked"] and (first != tracked_at or count > held(state["tracked"])):
                return _NOT_THIS_RING
            state["published"], state["next_used"] = first, end
            state["unpublished"] = count
            packed.publish(ring, memory, net)
        store_release(ring.journal, PUBLISHED, end)
    return end


@kernel(int64(VRING_T, MEMORY_T, NET_T))
def _resume_split(ring: Vring, memory: Memory, net: Net) -> int:
    """Give back what was promised in a transmit ring, whose chains went in the driver's order."""
    state = ring.state[0]
    used = int64(load_acquire(ring.used, 1))
    if state["next_avail"] != used:
        return _NOT_THIS_RING  # the guest has changed the one meanwhile
    promised = ring.journal[PROMISED]
    ahead = (promised - used) & 0xFFFF
    offered = (int64(load_acquire(ring.avail, 1)) - used) & 0xFFFF
    if state["writes"] or not 0 <= promised <= _HALF or ahead > min(offered, state["size"]):
        return used
    if state["tracked"] and ahead > (state["avail_idx"] - used) & 0xFFFF:
        return used  # what was promised had been marked before
    for i in range(ahead):
        slot = (used + i) & (state["size"] - 1)
        head = int64(load_relaxed(ring.avail, 2 + slot))
        if state["tracked"]:
            head = head_at(state["tracked"], used + i)
        store_relaxed(ring.elements, 2 * slot, head)
        store_relaxed(ring.elements, 2 * slot + 1, 0)
    state["published"], state["next_used"] = used, promised
    state["next_avail"] = promised
    split.publish(ring, memory, net)
    return used if ahead == 0 else promised


@kernel(int64(VRING_T, MEMORY_T, NET_T))
def resume(ring: Vring, memory: Memory, net: Net) -> int:
    """Finish what the journal promises: where the ring goes on, or negative: elsewhere.

    `ring.state` is as for a ring that starts where its front-end says. Nothing runs it.
    """
    if ring.state[0]["packed"]:
        return _resume_packed(ring, memory, net)
    return _resume_split(ring, memory, net)
