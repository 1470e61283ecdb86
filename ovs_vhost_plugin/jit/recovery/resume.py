# SPDX-License-Identifier: Apache-2.0
"""Finds where to resume a ring whose worker has died.

The journal has the chains that were begun, and the ring has how many of them were flushed. Neither
is trusted: a worker may have been taken over by its guest. So every word of the journal is checked
here before it is used, and a journal that does not fit the ring is ignored as a whole.

QEMU takes a transmit ring over while it has no back-end, as its NIC's link is down then: it lets
the driver not kick, and gives chains back unsent (virtio_net_drop_tx_queue_data in
hw/net/virtio-net.c). Where a packed ring stands it does not know: it still is where it last asked
for the base. If the driver has just made a chain available there, QEMU uses that one and those
behind it, and says so by the base. The chains in front of them are not used then, and the driver
waits for these first:

    journal            QEMU's place        base
    | available ...    | used by QEMU ...  | available, or nothing
"""

from __future__ import annotations

from errno import ESTALE

from ovs_vhost_plugin.jit.atomics import load_acquire, load_relaxed, store_relaxed, store_release
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
    MEMORY_T,
    NET_T,
    THREE_T,
    TWO_T,
    VRING_T,
    Memory,
    Net,
    Vring,
    boolean,
    int64,
    void,
)
from ovs_vhost_plugin.jit.recovery.inflight_packed import held
from ovs_vhost_plugin.jit.recovery.inflight_split import head_at
from ovs_vhost_plugin.jit.recovery.journal import (
    BEGUN,
    DEVICE_EVENT,
    DEVICE_EVENT_BEFORE,
    ENTRIES,
    FLUSHED,
    MOST_ENTRIES,
    begun_end,
    begun_entries,
    begun_word,
    entry,
    position_of,
)
from ovs_vhost_plugin.jit.ring import packed, split
from ovs_vhost_plugin.jit.ring.descriptor import (
    F_NEXT,
    acquire_word,
    packed_flags,
    packed_id,
    word_at,
)
from ovs_vhost_plugin.jit.ring.offsets import (
    AVAIL_IDX,
    EVENT_FLAGS,
    EVENT_FLAGS_DISABLE,
    EVENT_OFF_WRAP,
    USED_IDX,
    avail_ring,
    element_id,
    element_len,
)
from ovs_vhost_plugin.jit.ring.position import advance, distance, is_available, slot_of

_HALF = 0xFFFF
_NOT_THIS_RING = -ESTALE


@kernel(boolean(VRING_T, int64))
def _stands_at(ring: Vring, position: int) -> bool:
    """Whether no descriptor from `position` on is used already, in its round."""
    size = ring.state[0]["size"]
    for _ in range(size):
        word = word_at(ring.desc, slot_of(size, position))
        if is_available(size, position, word) < 0:
            return False
        position = advance(size, position, 1)
    return True


@kernel(boolean(VRING_T))
def stands_at_base(ring: Vring) -> bool:
    """Whether a ring is still at its base.

    If the ring has gone on since its front-end learned the base, as when a back-end was lost, there
    are used descriptors ahead, unless the driver has made them available again by now.
    """
    return _stands_at(ring, ring.state[0]["next_avail"])


@kernel(boolean(VRING_T))
def _device_event_matches(ring: Vring) -> bool:
    """Whether each half of the device event area has its last written value.

    Or the flags say no kicks, as QEMU has them say: no ring that was made anew does.
    """
    said, before = ring.journal[DEVICE_EVENT], ring.journal[DEVICE_EVENT_BEFORE]
    event = int64(load_relaxed(ring.used, EVENT_OFF_WRAP))
    flags = int64(load_relaxed(ring.used, EVENT_FLAGS))
    return bool(
        (event == said & _HALF or event == before & _HALF)
        and (flags == said >> 16 or flags == before >> 16 or flags == EVENT_FLAGS_DISABLE)
    )


@kernel(TWO_T(VRING_T, int64, int64))
def _chain_at(ring: Vring, position: int, most: int) -> tuple[int, int]:
    """How many descriptors the chain at `position` has, at most `most`, and its buffer id.

    0: there is no whole chain there.
    """
    size = ring.state[0]["size"]
    slots = int64(0)
    while slots < most:
        word = acquire_word(ring.desc, slot_of(size, position))
        if is_available(size, position, word) <= 0:
            return 0, 0
        slots += 1
        if packed_flags(word) & F_NEXT == 0:
            return slots, packed_id(word)
        position = advance(size, position, 1)
    return 0, 0


@kernel(THREE_T(VRING_T))
def _begun_chains(ring: Vring) -> tuple[int, int, int]:
    """The begun chains by the journal: from which position to which, and how many used descriptors.

    -ESTALE: the journal does not fit the ring, or not the region in which the ring is tracked.
    """
    state = ring.state[0]
    size = state["size"]
    first, begun = ring.journal[FLUSHED], ring.journal[BEGUN]
    end, count = begun_end(begun), begun_entries(begun)
    if not 0 <= first < 2 * size or end >= 2 * size or not 0 <= count <= MOST_ENTRIES:
        return _NOT_THIS_RING, 0, 0
    total = distance(size, first, end)
    if total > size or (total > 0 and count == 0) or not _device_event_matches(ring):
        return _NOT_THIS_RING, 0, 0
    if state["tracked"] and first != state["flushed"] and end != state["flushed"]:
        return _NOT_THIS_RING, 0, 0
    return first, end, count


@kernel(boolean(VRING_T, int64, int64, int64))
def _entries_fit(ring: Vring, first: int, total: int, count: int) -> bool:
    """Whether the journal's entries are for descriptors in order, among `total` from `first` on."""
    if packed.one_used_per_burst(ring):
        return True  # their positions are not used
    before = -1
    size = ring.state[0]["size"]
    for i in range(count):
        position = position_of(ring.journal[ENTRIES + i])
        if position >= 2 * size:
            return False
        ahead = distance(size, first, position)
        if ahead <= before or ahead >= total or (i == 0 and ahead > 0):
            return False
        before = ahead
    return True


@kernel(int64(VRING_T, MEMORY_T, NET_T, int64, int64, int64))
def _flush_begun(ring: Vring, memory: Memory, net: Net, first: int, end: int, count: int) -> int:
    """Flush the begun chains from `first` to `end`, unless they were flushed; return 0 or -ESTALE.

    `count`: the journal's entries for them.
    """
    state = ring.state[0]
    size, tracked_at = state["size"], state["flushed"]
    if first == end:
        return 0
    # Once the first descriptor was flushed, all were; the driver may use it again by now.
    word = acquire_word(ring.desc, slot_of(size, first))
    if is_available(size, first, word) == 1:
        if not _entries_fit(ring, first, distance(size, first, end), count):
            return _NOT_THIS_RING
        if state["tracked"] and (first != tracked_at or count > held(state["tracked"])):
            return _NOT_THIS_RING
        state["flushed"], state["next_used"], state["unflushed"] = first, end, count
        packed.flush_used(ring, memory, net)
    store_release(ring.journal, FLUSHED, end)
    return 0


@kernel(int64(VRING_T, int64, int64))
def _first_used(ring: Vring, start: int, base: int) -> int:
    """The position of the first used chain from `start` to `base`, behind whole available ones.

    -ESTALE: there is none, or the front-end cannot have used it.
    """
    state = ring.state[0]
    size = state["size"]
    if state["writes"] or state["tracked"] or distance(size, start, base) > size:
        return _NOT_THIS_RING
    while start != base:
        word = acquire_word(ring.desc, slot_of(size, start))
        if is_available(size, start, word) < 0:
            return start
        slots, _ = _chain_at(ring, start, distance(size, start, base))
        if slots == 0:
            return _NOT_THIS_RING
        start = advance(size, start, slots)
    return _NOT_THIS_RING


@kernel(TWO_T(VRING_T, int64))
def _left_by_front_end(ring: Vring, end: int) -> tuple[int, int]:
    """Where a ring resumes whose begun chains reach to `end`, and where its unsent chains end.

    The ring is at `end`, or at the base of a front-end that has used chains itself. The unsent
    chains are those from `end` on that this front-end has left out. -ESTALE: it is at neither.
    """
    if _stands_at(ring, end):
        return end, end
    base = ring.state[0]["next_avail"]
    unsent = _first_used(ring, end, base)
    if unsent < 0 or not _stands_at(ring, base):
        return _NOT_THIS_RING, 0
    return base, unsent


@kernel(void(VRING_T, MEMORY_T, NET_T, int64, int64))
def _give_back_unsent(ring: Vring, memory: Memory, net: Net, start: int, end: int) -> None:
    """Give the chains from `start` to `end` back, one by one: each is in the journal before."""
    state = ring.state[0]
    size = state["size"]
    while start != end:
        slots, buffer_id = _chain_at(ring, start, distance(size, start, end))
        if slots == 0:
            break  # its driver has changed it since
        behind = advance(size, start, slots)
        ring.journal[ENTRIES] = entry(start, buffer_id, 0)
        store_release(ring.journal, BEGUN, begun_word(behind, 1))
        state["flushed"], state["next_used"], state["unflushed"] = start, behind, 1
        packed.flush_used(ring, memory, net)
        net.counters[0]["tx_dropped_unserved"] += 1
        start = behind


@kernel(int64(VRING_T, MEMORY_T, NET_T))
def _resume_packed(ring: Vring, memory: Memory, net: Net) -> int:
    """Give back the begun chains, and then those that a front-end has left unsent."""
    first, end, count = _begun_chains(ring)
    if first < 0:
        return first
    at, unsent = _left_by_front_end(ring, end)
    if at < 0:
        return at
    result = _flush_begun(ring, memory, net, first, end, count)
    if result < 0:
        return result
    _give_back_unsent(ring, memory, net, end, unsent)
    ring.state[0]["next_avail"] = at
    return at


@kernel(int64(VRING_T, MEMORY_T, NET_T))
def _resume_split(ring: Vring, memory: Memory, net: Net) -> int:
    """Give back the begun chains of a transmit ring, whose frames went in the driver's order."""
    state = ring.state[0]
    used = int64(load_acquire(ring.used, USED_IDX))
    if state["next_avail"] != used:
        return _NOT_THIS_RING  # the guest has changed the used index meanwhile
    begun = ring.journal[BEGUN]
    ahead = (begun - used) & 0xFFFF
    offered = (int64(load_acquire(ring.avail, AVAIL_IDX)) - used) & 0xFFFF
    if state["writes"] or not 0 <= begun <= _HALF or ahead > min(offered, state["size"]):
        return used
    if state["tracked"] and ahead > (state["avail_idx"] - used) & 0xFFFF:
        return used  # a begun chain would be marked
    for i in range(ahead):
        slot = (used + i) & (state["size"] - 1)
        head = int64(load_relaxed(ring.avail, avail_ring(state["size"], used + i)))
        if state["tracked"]:
            head = head_at(state["tracked"], used + i)
        store_relaxed(ring.elements, element_id(slot), head)
        store_relaxed(ring.elements, element_len(slot), 0)
    state["flushed"], state["next_used"] = used, begun
    state["next_avail"] = begun
    split.flush_used(ring, memory, net)
    return used if ahead == 0 else begun


@kernel(int64(VRING_T, MEMORY_T, NET_T))
def resume(ring: Vring, memory: Memory, net: Net) -> int:
    """Finish the chains that the journal has begun; return where the ring resumes, or -ESTALE.

    -ESTALE: the journal does not fit the ring.

    `ring.state` is as for a ring that starts at its front-end's base. No loop runs the ring.
    """
    if ring.state[0]["packed"]:
        return _resume_packed(ring, memory, net)
    return _resume_split(ring, memory, net)
