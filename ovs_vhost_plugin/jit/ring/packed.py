# SPDX-License-Identifier: Apache-2.0
"""The device's side of a packed virtqueue (virtio 1.2, 2.8): the functions of `ring.py`, in order.

There is one ring, which both sides write. `next_avail`, `next_pop`, `next_used`, `flushed` and
`called` are positions in it (`position.py`).

A descriptor's second word (id, length, flags) is read with acquire, and written with release, in
one piece. The first used descriptor of a burst is written last. Until then the driver, which reads
no other descriptor before it, sees none of them (2.8.22). With IN_ORDER (2.8.8) it is the only one
written in a transmit ring. Until they are flushed, used descriptors are entries of the journal and
not in the ring: there they would overwrite descriptors that the next worker has to read if this
worker dies.
"""

from __future__ import annotations

from ovs_vhost_plugin.jit.atomics import (
    address_of,
    fence,
    load_acquire,
    load_relaxed,
    prefetch_write,
    store_release,
)
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
    CHAINS,
    MEMORY_T,
    NET_T,
    QUEUE_T,
    REGIONS_T,
    VRING_T,
    Memory,
    Net,
    Queue,
    Records,
    Vring,
    boolean,
    int64,
    uint64,
    void,
)
from ovs_vhost_plugin.jit.recovery.inflight_packed import clear_batch, list_batch, take
from ovs_vhost_plugin.jit.recovery.journal import (
    BEGUN,
    DEVICE_EVENT,
    DEVICE_EVENT_BEFORE,
    ENTRIES,
    FLUSHED,
    begun_word,
    entry,
    id_of,
    position_of,
    written_of,
)
from ovs_vhost_plugin.jit.ring.buffers import find_region, is_inside
from ovs_vhost_plugin.jit.ring.descriptor import (
    DESCRIPTOR_BYTES,
    F_AVAIL,
    F_INDIRECT,
    F_NEXT,
    F_USED,
    F_WRITE,
    acquire_word,
    address_at,
    length_of,
    packed_flags,
    packed_id,
    packed_used_word,
    place_of,
    put_word,
    release_word,
)
from ovs_vhost_plugin.jit.ring.dirty import mark, mark_used
from ovs_vhost_plugin.jit.ring.held import (
    IOVECS_FULL,
    begins_run,
    hold,
    hold_run,
    make_room,
    put_chain,
    release,
    room_for_run,
)
from ovs_vhost_plugin.jit.ring.offsets import (
    EVENT_BYTES,
    EVENT_FLAGS,
    EVENT_FLAGS_DESC,
    EVENT_FLAGS_DISABLE,
    EVENT_FLAGS_ENABLE,
    EVENT_FLAGS_MASK,
    EVENT_OFF_WRAP,
)
from ovs_vhost_plugin.jit.ring.packed_chain import walk
from ovs_vhost_plugin.jit.ring.position import (
    advance,
    distance,
    is_available,
    off_wrap,
    passes,
    position_of_event,
    slot_of,
    wrap_of,
)

# Descriptors: two cache lines. Those of a receive ring were offered long ago, and are read and then
# written: a line that is prefetched for writing comes only once.
_AHEAD = 8
_KIND = F_AVAIL | F_USED | F_NEXT | F_WRITE | F_INDIRECT


@kernel(int64(VRING_T), inline=True)
def _room(ring: Vring) -> int:
    """The number of descriptors that the driver may have beyond the held ones."""
    state = ring.state[0]
    size: int = state["size"]
    return size - distance(size, state["next_avail"], state["next_pop"])


@kernel(void(VRING_T, REGIONS_T, QUEUE_T, int64, int64), inline=True)
def _pop_run(ring: Vring, regions: Records, queue: Queue, chains: int, length: int) -> None:
    """Hold the next chains of one buffer each, as `pop_avail` does."""
    make_room(queue)
    state, held = ring.state[0], queue.state[0]
    size, writes, behind = state["size"], state["writes"], held["iotlb_behind"]
    slot = slot_of(size, state["next_pop"])
    at, place, total = held["end"], held["head"] + held["count"], held["length"]
    most = min(room_for_run(queue, chains), _room(ring))
    wanted = F_AVAIL if wrap_of(size, state["next_pop"]) else F_USED
    wanted |= F_WRITE if writes else 0
    guest, reach, host = uint64(0), uint64(0), int64(0)
    done = 0
    while done < most and total < length:
        word = acquire_word(ring.desc, slot)
        bytes_in, buffer_id = length_of(word), packed_id(word)
        if packed_flags(word) & _KIND != wanted or bytes_in == 0 or buffer_id >= size:
            break
        address = address_at(ring.desc, slot)
        if not is_inside(address, bytes_in, guest, reach):
            i = find_region(regions, 0, behind, address)
            if i < 0:
                break
            region = regions[uint64(i)]
            guest, reach, host = region["guest"], region["size"], int64(region["host"])
            if not is_inside(address, bytes_in, guest, reach):
                break
        if writes:
            prefetch_write(place_of(ring.desc, slot + _AHEAD))
        buffer = host + int64(address - guest)
        put_chain(queue, at + done, place + done, buffer, address, bytes_in, buffer_id, writes)
        total += bytes_in
        done += 1
        slot += 1
        if slot == size:
            slot = 0
            wanted ^= F_AVAIL | F_USED
    hold_run(queue, done, total)
    state["next_pop"] = advance(size, state["next_pop"], done)


@kernel(int64(VRING_T, MEMORY_T, QUEUE_T, int64, int64), inline=True)
def pop_avail(ring: Vring, memory: Memory, queue: Queue, chains: int, length: int) -> int:
    """As `ring.pop_avail`."""
    state = ring.state[0]
    held = queue.state[0]
    if begins_run(ring, queue, chains):
        _pop_run(ring, memory.regions, queue, chains, length)
    room = _room(ring)
    while room > 0 and held["count"] < chains and held["length"] < length:
        # State is read at its use: in registers it would displace hotter values.
        word = acquire_word(ring.desc, slot_of(state["size"], state["next_pop"]))
        available = is_available(state["size"], state["next_pop"], word)
        if available <= 0:
            return available
        if state["writes"]:
            slot = slot_of(state["size"], state["next_pop"])
            prefetch_write(place_of(ring.desc, slot + _AHEAD))
        make_room(queue)
        iovecs, bytes_in, buffer_id, slots = walk(ring, word, room, memory.regions, queue)
        if iovecs < 0:
            return iovecs
        if not hold(queue, iovecs, bytes_in, buffer_id, slots):
            return IOVECS_FULL
        if state["tracked"]:
            slot = slot_of(state["size"], state["next_pop"])
            take(state["tracked"], address_of(ring.desc, 0), slot, slots)
        state["next_pop"] = advance(state["size"], state["next_pop"], slots)
        room -= slots
    return 0


@kernel(boolean(VRING_T), inline=True)
def one_used_per_burst(ring: Vring) -> bool:
    """Whether a burst is given back by its last buffer id alone (2.8.8), without lost lengths."""
    return bool(ring.state[0]["in_order"] and not ring.state[0]["writes"])


@kernel(void(VRING_T, QUEUE_T, int64), inline=True)
def _write_entry(ring: Vring, queue: Queue, written: int) -> None:
    """Make the oldest held chain the journal's next entry."""
    state = ring.state[0]
    at = state["flushed"] if one_used_per_burst(ring) else state["next_used"]
    buffer_id = queue.chains[uint64(queue.state[0]["head"])]["head"]
    ring.journal[uint64(ENTRIES + state["unflushed"])] = entry(at, buffer_id, written)


@kernel(void(VRING_T, QUEUE_T, int64), inline=True)
def journal_begin(ring: Vring, queue: Queue, count: int) -> None:
    """As `ring.journal_begin`."""
    state = ring.state[0]
    end, entries = state["next_used"], state["unflushed"]
    for i in range(count):
        chain = queue.chains[(queue.state[0]["head"] + i) & (CHAINS - 1)]
        at = state["flushed"] if one_used_per_burst(ring) else end
        ring.journal[uint64(ENTRIES + entries)] = entry(at, chain["head"], 0)
        end = advance(state["size"], end, chain["slots"])
        entries += 1
    store_release(ring.journal, BEGUN, begun_word(end, entries))


@kernel(void(VRING_T), inline=True)
def journal_abort(ring: Vring) -> None:
    """As `ring.journal_abort`."""
    state = ring.state[0]
    store_release(ring.journal, BEGUN, begun_word(state["next_used"], state["unflushed"]))


@kernel(void(VRING_T, QUEUE_T, int64), inline=True)
def add_used(ring: Vring, queue: Queue, written: int) -> None:
    """As `ring.add_used`. A burst has at most MOST_ENTRIES chains."""
    state = ring.state[0]
    slots = queue.chains[uint64(queue.state[0]["head"])]["slots"]
    _write_entry(ring, queue, written)
    state["unflushed"] += 1
    state["next_used"] = advance(state["size"], state["next_used"], slots)
    state["next_avail"] = advance(state["size"], state["next_avail"], slots)
    release(queue)


@kernel(int64(VRING_T, int64, int64), inline=True)
def _used_word(ring: Vring, position: int, shown: int) -> int:
    """The second word of the used descriptor at `position`, made of a journal's entry."""
    wrap = wrap_of(ring.state[0]["size"], position)
    return packed_used_word(id_of(shown), written_of(shown), wrap, ring.state[0]["writes"])


@kernel(void(VRING_T, MEMORY_T, NET_T, int64, int64))
def mark_descriptors(ring: Vring, memory: Memory, net: Net, position: int, count: int) -> None:
    """Mark `count` descriptors from `position` on in the dirty log."""
    fence()
    base = ring.state[0]["log_desc"]
    size = ring.state[0]["size"]
    slot = slot_of(size, position)
    straight = min(count, size - slot)
    mark(memory, net, base + uint64(DESCRIPTOR_BYTES * slot), DESCRIPTOR_BYTES * straight)
    mark(memory, net, base, DESCRIPTOR_BYTES * (count - straight))


@kernel(boolean(VRING_T, MEMORY_T, NET_T))
def flush_used(ring: Vring, memory: Memory, net: Net) -> bool:
    """As `ring.flush_used`. Marks the dirty log before and after writing the first descriptor.

    From here on the journal has the used descriptors, so that the next worker can write them again.
    """
    state = ring.state[0]
    size, first, count = state["size"], state["flushed"], state["unflushed"]
    if count == 0:
        return False
    journal_abort(ring)
    last = count if one_used_per_burst(ring) else 1
    for i in range(last, count):
        shown = ring.journal[uint64(ENTRIES + i)]
        at = position_of(shown)
        put_word(ring.desc, slot_of(size, at), _used_word(ring, at, shown))
    if state["log_used"] and last < count:
        mark_descriptors(ring, memory, net, first, distance(size, first, state["next_used"]))
    if state["tracked"]:
        list_batch(state["tracked"], count, state["next_used"])
    word = _used_word(ring, first, ring.journal[ENTRIES + last - 1])
    release_word(ring.desc, slot_of(size, first), word)
    if state["tracked"]:
        clear_batch(state["tracked"], count, state["next_used"])
    store_release(ring.journal, FLUSHED, state["next_used"])
    state["flushed"] = state["next_used"]
    state["unflushed"] = 0
    if state["log_used"]:
        mark_descriptors(ring, memory, net, first, 1)
    return True


@kernel(boolean(VRING_T))
def needs_notification(ring: Vring) -> bool:
    """As `ring.needs_notification`: by the driver event area (2.8.10)."""
    state = ring.state[0]
    called, valid = state["called"], state["called_valid"]
    state["called"] = state["flushed"]
    state["called_valid"] = 1
    fence()
    flags = int64(load_acquire(ring.avail, EVENT_FLAGS)) & EVENT_FLAGS_MASK
    if flags != EVENT_FLAGS_DESC or not state["event_idx"]:
        return flags != EVENT_FLAGS_DISABLE
    size = state["size"]
    at = position_of_event(size, int64(load_relaxed(ring.avail, EVENT_OFF_WRAP)))
    return bool(valid == 0 or passes(size, at, state["flushed"], called))


@kernel(void(VRING_T, MEMORY_T, NET_T, int64))
def _write_event_suppression(ring: Vring, memory: Memory, net: Net, flags: int) -> None:
    """Write the device event area: the event is the next descriptor to be popped.

    Also if the driver does not read it (2.8.14): a new ring does not have it, so a worker that
    takes a ring over can tell the two apart.
    """
    event = off_wrap(ring.state[0]["size"], ring.state[0]["next_pop"])
    ring.journal[DEVICE_EVENT_BEFORE] = ring.journal[DEVICE_EVENT]
    store_release(ring.journal, DEVICE_EVENT, event | flags << 16)
    store_release(ring.used, EVENT_OFF_WRAP, event)
    store_release(ring.used, EVENT_FLAGS, flags)
    mark_used(ring, memory, net, 0, EVENT_BYTES)


@kernel(boolean(VRING_T, MEMORY_T, NET_T))
def enable_notification(ring: Vring, memory: Memory, net: Net) -> bool:
    """As `ring.enable_notification`."""
    state = ring.state[0]
    if not state["kicks_on"]:
        state["kicks_on"] = 1
        flags = EVENT_FLAGS_DESC if state["event_idx"] else EVENT_FLAGS_ENABLE
        _write_event_suppression(ring, memory, net, flags)
    fence()
    size, position = state["size"], state["next_pop"]
    word = acquire_word(ring.desc, slot_of(size, position))
    return bool(_room(ring) > 0 and is_available(size, position, word) != 0)


@kernel(void(VRING_T, MEMORY_T, NET_T))
def disable_notification(ring: Vring, memory: Memory, net: Net) -> None:
    """As `ring.disable_notification`.

    A stale event would be passed again every other time around the ring.
    """
    if ring.state[0]["kicks_on"]:
        ring.state[0]["kicks_on"] = 0
        _write_event_suppression(ring, memory, net, EVENT_FLAGS_DISABLE)
