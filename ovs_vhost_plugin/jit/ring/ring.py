# SPDX-License-Identifier: Apache-2.0
"""A ring's functions for both directions: each asks "packed?" and calls the layout's own function.

`split.py` and `packed.py` have these eight functions, in this order and with these signatures; a
test holds that. A burst calls them in this order:

    pop_avail                parse available chains, and hold them
    disable_notification     no kicks while there are chains
    for each held chain:
        journal_begin        before its effect: a transmit ring's frame goes to the tap
        journal_abort        if it had no effect
        add_used             the chain is used, which the driver does not see yet
    flush_used               now the driver sees the used chains
    needs_notification       then the driver is called, or not
    enable_notification      before sleep: kicks, and one more look

All are inlined into their callers: a call would cost more than the question.
"""

from __future__ import annotations

from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
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
    void,
)
from ovs_vhost_plugin.jit.ring import packed, split


@kernel(int64(VRING_T, MEMORY_T, QUEUE_T, int64, int64), inline=True)
def pop_avail(ring: Vring, memory: Memory, queue: Queue, chains: int, length: int) -> int:
    """Parse available chains until `chains` chains or `length` bytes are held.

    Return 0, IOVECS_FULL if the next chain did not fit, or a fault of the next chain. The chains
    before it are held and good.
    """
    if ring.state[0]["packed"]:
        return packed.pop_avail(ring, memory, queue, chains, length)
    return split.pop_avail(ring, memory, queue, chains, length)


@kernel(void(VRING_T, QUEUE_T, int64), inline=True)
def journal_begin(ring: Vring, queue: Queue, count: int) -> None:
    """Record that the `count` oldest held chains are about to have their effect, once each.

    If this worker is killed from here on, the next one gives them back without sending them: a
    network may lose frames, but is not expected to duplicate them, perhaps much later.
    """
    if ring.state[0]["packed"]:
        packed.journal_begin(ring, queue, count)
    else:
        split.journal_begin(ring, queue, count)


@kernel(void(VRING_T), inline=True)
def journal_abort(ring: Vring) -> None:
    """Record that those of `journal_begin` that are not given back had no effect."""
    if ring.state[0]["packed"]:
        packed.journal_abort(ring)
    else:
        split.journal_abort(ring)


@kernel(void(VRING_T, QUEUE_T, int64), inline=True)
def add_used(ring: Vring, queue: Queue, written: int) -> None:
    """Give the oldest held chain back with `written` bytes in it, not yet visible."""
    if ring.state[0]["packed"]:
        packed.add_used(ring, queue, written)
    else:
        split.add_used(ring, queue, written)


@kernel(boolean(VRING_T, MEMORY_T, NET_T), inline=True)
def flush_used(ring: Vring, memory: Memory, net: Net) -> bool:
    """Make the used chains visible to the driver; return whether there were any."""
    if ring.state[0]["packed"]:
        return packed.flush_used(ring, memory, net)
    return split.flush_used(ring, memory, net)


@kernel(boolean(VRING_T), inline=True)
def needs_notification(ring: Vring) -> bool:
    """Whether the driver wants a call for the chains flushed since the last call of this.

    The first time after a start the answer is yes.
    """
    if ring.state[0]["packed"]:
        return packed.needs_notification(ring)
    return split.needs_notification(ring)


@kernel(boolean(VRING_T, MEMORY_T, NET_T), inline=True)
def enable_notification(ring: Vring, memory: Memory, net: Net) -> bool:
    """Let the driver kick from now on; return whether there are new available chains."""
    if ring.state[0]["packed"]:
        return packed.enable_notification(ring, memory, net)
    return split.enable_notification(ring, memory, net)


@kernel(void(VRING_T, MEMORY_T, NET_T), inline=True)
def disable_notification(ring: Vring, memory: Memory, net: Net) -> None:
    """Spare the driver its kicks while the loop polls the ring anyway."""
    if ring.state[0]["packed"]:
        packed.disable_notification(ring, memory, net)
    else:
        split.disable_notification(ring, memory, net)
