# SPDX-License-Identifier: Apache-2.0
"""The device's side of a split virtqueue: take chains, give them back, and who wakes whom.

The avail ring is the driver's, the used ring ours (virtio 1.2, 2.7). An index is read with
acquire and published with release, so that what it covers is seen whole. Indices count modulo
65536 and never modulo the ring's size.

Each side sleeps after it has said so and looked once more (2.7.13.4.1, 2.7.14): a store, then a
load of something else, which only a full fence keeps in order.
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
    HELD_IOVECS_MAX,
    MEMORY_T,
    NET_T,
    QUEUE_T,
    VRING_T,
    Memory,
    Net,
    Queue,
    Vring,
    boolean,
    int64,
    uint64,
    void,
)
from ovs_vhost_plugin.jit.recovery.inflight_split import head_at, link, settle, take
from ovs_vhost_plugin.jit.recovery.journal import BEGUN
from ovs_vhost_plugin.jit.result import failure
from ovs_vhost_plugin.jit.ring.chain import hold, make_room, release, walk
from ovs_vhost_plugin.jit.ring.dirty import mark_used

_AVAIL_F_NO_INTERRUPT = 1  # 2.7.6
_USED_F_NO_NOTIFY = 1  # 2.7.8
# Elements: two cache lines. The driver's processor has them, and the fence after a burst waits for
# all that was written.
_AHEAD = 16


@kernel(boolean(int64, int64, int64))
def need_event(event: int, new: int, old: int) -> bool:
    """Whether an index that went from `old` to `new` passed `event` (2.7.10)."""
    return ((new - event - 1) & 0xFFFF) < ((new - old) & 0xFFFF)


@kernel(int64(VRING_T), inline=True)
def read_avail_idx(ring: Vring) -> int:
    """Read how far the driver's index is: 0 or a fault."""
    state = ring.state[0]
    avail_idx = int64(load_acquire(ring.avail, 1))
    ahead = (avail_idx - state["next_avail"]) & 0xFFFF
    known = (state["avail_idx"] - state["next_avail"]) & 0xFFFF
    if ahead > state["size"]:
        # More than half of the index's range ahead is rather behind.
        return failure(Fault.AVAIL_GOES_BACK if ahead >= 0x8000 else Fault.AVAIL_JUMPS)
    if ahead < known:
        return failure(Fault.AVAIL_GOES_BACK)
    if state["tracked"]:
        take(state["tracked"], address_of(ring.avail, 2), state["avail_idx"], ahead - known)
    state["avail_idx"] = avail_idx
    return 0


@kernel(int64(VRING_T, MEMORY_T, QUEUE_T, int64, int64), inline=True)
def pop_avail(ring: Vring, memory: Memory, queue: Queue, chains: int, length: int) -> int:
    """Parse what the driver offers until `chains` chains or `length` bytes are held: 0 or a fault.

    With a fault, chains parsed before it are held and good. `full` says that iovecs ran out.
    """
    state = ring.state[0]
    held = queue.state[0]
    held["full"] = 0
    while held["count"] < chains and held["length"] < length:
        if state["next_pop"] == state["avail_idx"]:
            result = read_avail_idx(ring)
            if result < 0:
                return result
            if state["next_pop"] == state["avail_idx"]:
                return 0
        head = int64(load_relaxed(ring.avail, 2 + (state["next_pop"] & (state["size"] - 1))))
        if state["tracked"]:
            head = head_at(state["tracked"], state["next_pop"])
        make_room(queue)
        iovecs = walk(ring, head, memory.regions, queue)
        if iovecs < 0:
            return iovecs
        if held["end"] - held["first"] + iovecs > HELD_IOVECS_MAX:
            held["full"] = 1
            return 0
        hold(queue, head, iovecs)
        state["next_pop"] = (state["next_pop"] + 1) & 0xFFFF
    return 0


@kernel(void(VRING_T), inline=True)
def journal_begin(ring: Vring) -> None:
    """As `ring.journal_begin`: the used ring has as many elements as chains were given back."""
    store_release(ring.journal, BEGUN, (ring.state[0]["next_used"] + 1) & 0xFFFF)


@kernel(void(VRING_T), inline=True)
def journal_abort(ring: Vring) -> None:
    """As `ring.journal_abort`."""
    store_release(ring.journal, BEGUN, ring.state[0]["next_used"])


@kernel(void(VRING_T, QUEUE_T, int64), inline=True)
def add_used(ring: Vring, queue: Queue, written: int) -> None:
    """Put the oldest held chain into the used ring, `written` bytes in it; not yet visible."""
    state = ring.state[0]
    held = queue.state[0]
    slot = state["next_used"] & (state["size"] - 1)
    prefetch_write(address_of(ring.elements, 2 * (slot + _AHEAD)))
    store_relaxed(ring.elements, 2 * slot, queue.chains[uint64(held["head"])]["head"])
    store_relaxed(ring.elements, 2 * slot + 1, written)
    state["next_used"] = (state["next_used"] + 1) & 0xFFFF
    state["next_avail"] = (state["next_avail"] + 1) & 0xFFFF
    release(queue)


@kernel(boolean(VRING_T, MEMORY_T, NET_T))
def flush_used(ring: Vring, memory: Memory, net: Net) -> bool:
    """Make the used elements visible to the driver: whether there were any.

    Logged in the order that migration needs: elements before the index, the index after it.
    """
    state = ring.state[0]
    count = (state["next_used"] - state["flushed"]) & 0xFFFF
    if count == 0:
        return False
    if state["log_used"]:
        slot = state["flushed"] & (state["size"] - 1)
        straight = min(count, state["size"] - slot)
        mark_used(ring, memory, net, 4 + 8 * slot, 8 * straight)
        if count > straight:
            mark_used(ring, memory, net, 4, 8 * (count - straight))
    if state["tracked"]:
        link(state["tracked"], state["next_avail"], count)
    store_release(ring.used, 1, state["next_used"])
    if state["tracked"]:
        settle(state["tracked"], state["next_avail"], count, state["next_used"])
    state["flushed"] = state["next_used"]
    mark_used(ring, memory, net, 2, 2)
    return True


@kernel(boolean(VRING_T))
def needs_notification(ring: Vring) -> bool:
    """Whether the driver wants to be woken for what was published since this last said yes or no.

    2.7.7.2 for flags, 2.7.10 for the event index. The first time after a start it is woken.
    """
    state = ring.state[0]
    fence()
    if not state["event_idx"]:
        return int64(load_relaxed(ring.avail, 0)) & _AVAIL_F_NO_INTERRUPT == 0
    used_event = int64(load_relaxed(ring.avail, 2 + state["size"]))
    wanted = state["called_valid"] == 0 or need_event(used_event, state["flushed"], state["called"])
    state["called"] = state["flushed"]
    state["called_valid"] = 1
    return wanted


@kernel(boolean(VRING_T, MEMORY_T, NET_T))
def enable_notification(ring: Vring, memory: Memory, net: Net) -> bool:
    """Let the driver kick from now on: whether it has offered something in the meantime."""
    state = ring.state[0]
    if not state["kicks_on"]:
        state["kicks_on"] = 1
        if state["event_idx"]:
            store_relaxed(ring.used, 2 + 4 * state["size"], state["next_pop"])
            mark_used(ring, memory, net, 4 + 8 * state["size"], 2)
        else:
            store_relaxed(ring.used, 0, 0)
            mark_used(ring, memory, net, 0, 2)
    fence()
    return bool(load_acquire(ring.avail, 1) != state["next_pop"])


@kernel(void(VRING_T, MEMORY_T, NET_T))
def disable_notification(ring: Vring, memory: Memory, net: Net) -> None:
    """Spare the driver its kicks while we look anyway.

    With the event index there is nothing to do: avail_event stays behind the driver's index.
    """
    state = ring.state[0]
    if state["kicks_on"]:
        if not state["event_idx"]:
            store_relaxed(ring.used, 0, _USED_F_NO_NOTIFY)
            mark_used(ring, memory, net, 0, 2)
        state["kicks_on"] = 0
