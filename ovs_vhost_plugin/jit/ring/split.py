# SPDX-License-Identifier: Apache-2.0
"""The device's side of a split virtqueue (virtio 1.2, 2.7): the functions of `ring.py`, in order.

The avail ring is the driver's, the used ring the device's. An index is read with acquire and
written with release, so that the entries it covers are complete. Indices count modulo 65536 and
never modulo the ring's size.

Before it sleeps, each side asks for a notification and looks once more (2.7.13.4.1, 2.7.14). This
is a store and then a load of another word, which only a full fence keeps in order.
"""

from __future__ import annotations

from ovs_vhost_plugin.jit.atomics import (
    address_of,
    fence,
    load_acquire,
    load_relaxed,
    prefetch_write,
    store_relaxed,
    store_release,
)
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
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
from ovs_vhost_plugin.jit.recovery.inflight_split import clear_batch, head_at, list_batch, take
from ovs_vhost_plugin.jit.recovery.journal import BEGUN
from ovs_vhost_plugin.jit.result import failure
from ovs_vhost_plugin.jit.ring.buffers import find_region, is_inside
from ovs_vhost_plugin.jit.ring.descriptor import (
    F_INDIRECT,
    F_NEXT,
    F_WRITE,
    address_at,
    length_of,
    split_flags,
    word_at,
)
from ovs_vhost_plugin.jit.ring.dirty import mark_used
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
    AVAIL_F_NO_INTERRUPT,
    AVAIL_FLAGS,
    AVAIL_IDX,
    AVAIL_RING,
    LE16,
    USED_ELEMENT_BYTES,
    USED_F_NO_NOTIFY,
    USED_FLAGS,
    USED_IDX,
    avail_event,
    avail_ring,
    element_byte,
    element_id,
    element_len,
    used_event,
)
from ovs_vhost_plugin.jit.ring.split_chain import walk

# Elements: two cache lines. The driver's processor has the lines, and the fence after a burst waits
# for all writes.
_AHEAD = 16
_KIND = F_NEXT | F_WRITE | F_INDIRECT
_HALF_WAY = 0x8000


@kernel(int64(VRING_T), inline=True)
def read_avail_idx(ring: Vring) -> int:
    """Read the driver's avail index; return 0 or a fault."""
    state = ring.state[0]
    avail_idx = int64(load_acquire(ring.avail, AVAIL_IDX))
    ahead = (avail_idx - state["next_avail"]) & 0xFFFF
    known = (state["avail_idx"] - state["next_avail"]) & 0xFFFF
    if ahead > state["size"]:
        # An index more than half of its range ahead is behind.
        return failure(Fault.AVAIL_GOES_BACK if ahead >= _HALF_WAY else Fault.AVAIL_JUMPS)
    if ahead < known:
        return failure(Fault.AVAIL_GOES_BACK)
    if state["tracked"]:
        heads = address_of(ring.avail, AVAIL_RING)
        take(state["tracked"], heads, state["avail_idx"], ahead - known)
    state["avail_idx"] = avail_idx
    return 0


@kernel(void(VRING_T, REGIONS_T, QUEUE_T, int64, int64), inline=True)
def _pop_run(ring: Vring, regions: Records, queue: Queue, chains: int, length: int) -> None:
    """Hold the next chains of one buffer each, up to the avail index as last read."""
    make_room(queue)
    state, held = ring.state[0], queue.state[0]
    size, writes, behind = state["size"], state["writes"], held["iotlb_behind"]
    index = state["next_pop"]
    at, place, total = held["end"], held["head"] + held["count"], held["length"]
    most = min(room_for_run(queue, chains), (state["avail_idx"] - index) & 0xFFFF)
    wanted = F_WRITE if writes else 0
    guest, reach, host = uint64(0), uint64(0), int64(0)
    done = 0
    while done < most and total < length:
        head = int64(load_relaxed(ring.avail, avail_ring(size, index + done)))
        if head >= size:
            break
        address, word = address_at(ring.desc, head), word_at(ring.desc, head)
        bytes_in = length_of(word)
        if split_flags(word) & _KIND != wanted or bytes_in == 0:
            break
        if not is_inside(address, bytes_in, guest, reach):
            i = find_region(regions, 0, behind, address)
            if i < 0:
                break
            region = regions[uint64(i)]
            guest, reach, host = region["guest"], region["size"], int64(region["host"])
            if not is_inside(address, bytes_in, guest, reach):
                break
        buffer = host + int64(address - guest)
        put_chain(queue, at + done, place + done, buffer, address, bytes_in, head, writes)
        total += bytes_in
        done += 1
    hold_run(queue, done, total)
    state["next_pop"] = (index + done) & 0xFFFF


@kernel(int64(VRING_T, MEMORY_T, QUEUE_T, int64, int64), inline=True)
def pop_avail(ring: Vring, memory: Memory, queue: Queue, chains: int, length: int) -> int:
    """As `ring.pop_avail`."""
    state = ring.state[0]
    held = queue.state[0]
    if begins_run(ring, queue, chains):
        result = read_avail_idx(ring)
        if result < 0:
            return result
        _pop_run(ring, memory.regions, queue, chains, length)
    while held["count"] < chains and held["length"] < length:
        if state["next_pop"] == state["avail_idx"]:
            result = read_avail_idx(ring)
            if result < 0:
                return result
            if state["next_pop"] == state["avail_idx"]:
                return 0
        head = int64(load_relaxed(ring.avail, avail_ring(state["size"], state["next_pop"])))
        if state["tracked"]:
            head = head_at(state["tracked"], state["next_pop"])
        make_room(queue)
        iovecs, bytes_in, head, slots = walk(ring, head, memory.regions, queue)
        if iovecs < 0:
            return iovecs
        if not hold(queue, iovecs, bytes_in, head, slots):
            return IOVECS_FULL
        state["next_pop"] = (state["next_pop"] + slots) & 0xFFFF
    return 0


@kernel(void(VRING_T, QUEUE_T, int64), inline=True)
def journal_begin(ring: Vring, _queue: Queue, count: int) -> None:
    """As `ring.journal_begin`: the used ring has as many elements as chains were given back."""
    store_release(ring.journal, BEGUN, (ring.state[0]["next_used"] + count) & 0xFFFF)


@kernel(void(VRING_T), inline=True)
def journal_abort(ring: Vring) -> None:
    """As `ring.journal_abort`."""
    store_release(ring.journal, BEGUN, ring.state[0]["next_used"])


@kernel(void(VRING_T, QUEUE_T, int64), inline=True)
def add_used(ring: Vring, queue: Queue, written: int) -> None:
    """As `ring.add_used`: writes the used element, and leaves the used index."""
    state = ring.state[0]
    slot = state["next_used"] & (state["size"] - 1)
    prefetch_write(address_of(ring.elements, element_id(slot + _AHEAD)))
    head = queue.chains[uint64(queue.state[0]["head"])]["head"]
    store_relaxed(ring.elements, element_id(slot), head)
    store_relaxed(ring.elements, element_len(slot), written)
    state["next_used"] = (state["next_used"] + 1) & 0xFFFF
    state["next_avail"] = (state["next_avail"] + 1) & 0xFFFF
    release(queue)


@kernel(boolean(VRING_T, MEMORY_T, NET_T))
def flush_used(ring: Vring, memory: Memory, net: Net) -> bool:
    """As `ring.flush_used`: writes the used index, which then covers all elements.

    Marks the dirty log in migration's order: elements before the index is written, the index after.
    """
    state = ring.state[0]
    count = (state["next_used"] - state["flushed"]) & 0xFFFF
    if count == 0:
        return False
    if state["log_used"]:
        slot = state["flushed"] & (state["size"] - 1)
        straight = min(count, state["size"] - slot)
        mark_used(ring, memory, net, element_byte(slot), USED_ELEMENT_BYTES * straight)
        if count > straight:
            around = USED_ELEMENT_BYTES * (count - straight)
            mark_used(ring, memory, net, element_byte(0), around)
    if state["tracked"]:
        list_batch(state["tracked"], count, state["next_avail"])
    store_release(ring.used, USED_IDX, state["next_used"])
    if state["tracked"]:
        clear_batch(state["tracked"], count, state["next_avail"], state["next_used"])
    state["flushed"] = state["next_used"]
    mark_used(ring, memory, net, LE16 * USED_IDX, LE16)
    return True


@kernel(boolean(int64, int64, int64))
def need_event(event: int, new: int, old: int) -> bool:
    """Whether an index that went from `old` to `new` passed `event` (2.7.10)."""
    return ((new - event - 1) & 0xFFFF) < ((new - old) & 0xFFFF)


@kernel(boolean(VRING_T))
def needs_notification(ring: Vring) -> bool:
    """As `ring.needs_notification`: by flags (2.7.7.2), or by the event index (2.7.10)."""
    state = ring.state[0]
    fence()
    if not state["event_idx"]:
        return int64(load_relaxed(ring.avail, AVAIL_FLAGS)) & AVAIL_F_NO_INTERRUPT == 0
    event = int64(load_relaxed(ring.avail, used_event(state["size"])))
    wanted = state["called_valid"] == 0 or need_event(event, state["flushed"], state["called"])
    state["called"] = state["flushed"]
    state["called_valid"] = 1
    return wanted


@kernel(boolean(VRING_T, MEMORY_T, NET_T))
def enable_notification(ring: Vring, memory: Memory, net: Net) -> bool:
    """As `ring.enable_notification`."""
    state = ring.state[0]
    if not state["kicks_on"]:
        state["kicks_on"] = 1
        if state["event_idx"]:
            event = avail_event(state["size"])
            store_relaxed(ring.used, event, state["next_pop"])
            mark_used(ring, memory, net, LE16 * event, LE16)
        else:
            store_relaxed(ring.used, USED_FLAGS, 0)
            mark_used(ring, memory, net, LE16 * USED_FLAGS, LE16)
    fence()
    return bool(load_acquire(ring.avail, AVAIL_IDX) != state["next_pop"])


@kernel(void(VRING_T, MEMORY_T, NET_T))
def disable_notification(ring: Vring, memory: Memory, net: Net) -> None:
    """As `ring.disable_notification`.

    With the event index there is nothing to do: avail_event stays behind the driver's index.
    """
    state = ring.state[0]
    if state["kicks_on"]:
        if not state["event_idx"]:
            store_relaxed(ring.used, USED_FLAGS, USED_F_NO_NOTIFY)
            mark_used(ring, memory, net, LE16 * USED_FLAGS, LE16)
        state["kicks_on"] = 0
