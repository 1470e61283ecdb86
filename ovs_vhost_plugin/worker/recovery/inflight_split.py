# SPDX-License-Identifier: Apache-2.0
"""A split ring that resumes by its front-end's inflight region, or is handed over.

vhost-user "Inflight I/O tracking". The region is the truth each time a ring starts, also after a
pause. The region is read once, as a whole, and checked before it is used: it is the front-end's
memory, and another back-end may have written it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovs_vhost_plugin.common.inflight_layout import SPLIT, VERSION
from ovs_vhost_plugin.jit import layout
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.recovery.inflight_split import TRACKER
from ovs_vhost_plugin.jit.ring.offsets import AVAIL_IDX, avail_ring
from ovs_vhost_plugin.jit.ring.split import flush_used
from ovs_vhost_plugin.vhost.memory import mapping

Bytes = NDArray[np.uint8]

_HALF = 0xFFFF
_MOST = 2**63 - 1


class DamagedError(Exception):
    """The region does not fit the ring; `fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.kebab)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Tracking:
    """A ring's tracking, by kernels that use `tracker` and `region` as long as this lives."""

    tracker: Bytes  # a TRACKER of jit/recovery/inflight_*.py
    region: Bytes
    heads: list[int]  # of the chains in flight when the ring began, oldest first

    def clear(self, head: int) -> None:
        """Mark the chain at `head` as not in flight."""
        SPLIT.entries_of(self.region)[head]["inflight"] = 0


def _recover(region: Bytes, size: int, used: int, offered: int) -> Tracking:
    """Bring a queue's region up to date with its ring of `size` that has used index `used`.

    offered: the number of chains that the driver has made available and that are not used.
    Raises DamagedError; the region is then unchanged.
    """
    copy = region.copy()
    header, entries = SPLIT.header_of(copy), SPLIT.entries_of(copy)
    if header["version"] == 0:
        _make(region, len(entries), used)
        return Tracking(_tracker(region, size, 0), region, [])
    if (header["version"], header["features"], header["desc_num"]) != (VERSION, 0, len(entries)):
        raise DamagedError(Fault.INFLIGHT_VERSION)
    marked = entries["inflight"] == 1
    left_over = _last_batch(header, entries, used) if marked.any() else []
    marked[left_over] = False
    heads = np.flatnonzero(marked)
    if len(heads) and heads[-1] >= size:
        raise DamagedError(Fault.INFLIGHT_OUT_OF_RANGE)
    if len(heads) > offered:
        raise DamagedError(Fault.INFLIGHT_STALE)
    for head in left_over:
        SPLIT.entries_of(region)[head]["inflight"] = 0
    SPLIT.header_of(region)["used_idx"] = used
    counters = entries["counter"][heads]
    following = int(counters.max()) + 1 if len(heads) else 0
    found = [int(head) for head in heads[np.argsort(counters, kind="stable")]]
    return Tracking(_tracker(region, size, following & _MOST), region, found)


def _tracker(region: Bytes, size: int, next_counter: int) -> Bytes:
    """The kernels' record of the chains in flight, without heads."""
    tracker = np.zeros(TRACKER.length(size), np.uint8)
    record = TRACKER.header_of(tracker)
    record["region"] = mapping.address(region)
    record["next_counter"], record["size"] = next_counter, size
    return tracker


def _make(region: Bytes, entries: int, used: int) -> None:
    """Begin a queue's region: nothing is in flight."""
    region[:] = 0
    header = SPLIT.header_of(region)
    header["desc_num"], header["used_idx"] = entries, used
    header["version"] = VERSION  # last: until then the rest is void


def _last_batch(header: Any, entries: NDArray[Any], used: int) -> list[int]:
    """The heads of the last batch that the driver has seen, whose marks may be left over."""
    count = (used - int(header["used_idx"])) & _HALF
    if count > len(entries):
        raise DamagedError(Fault.INFLIGHT_STALE)
    batch: dict[int, None] = {}
    head = int(header["last_batch_head"])
    for _ in range(count):
        if head >= len(entries):
            raise DamagedError(Fault.INFLIGHT_OUT_OF_RANGE)
        if head in batch:
            raise DamagedError(Fault.INFLIGHT_LOOPS)
        batch[head] = None
        head = int(entries[head]["next"])
    return list(batch)


def track(ring: layout.Vring, region: Bytes) -> Tracking:
    """Track `ring`, which is about to begin, in its region, and begin with the chains in flight.

    The chains in flight were taken from the avail ring before. So the ring resumes at its used
    index, and the front-end's base may be further on by the number of chains in flight, or also
    by the chains that the driver has offered since. Raises DamagedError.
    """
    state, at = ring.state[0], int(ring.state[0]["next_avail"])
    used = int(state["next_used"])
    offered = (int(ring.avail[AVAIL_IDX]) - at) & _HALF
    tracking = _recover(region, int(state["size"]), used, offered)
    for i, head in enumerate(tracking.heads):
        TRACKER.entries_of(tracking.tracker)[(at + i) % int(state["size"])]["head"] = head
    if tracking.heads:
        state["avail_idx"] = (at + len(tracking.heads)) & _HALF
    state["tracked"] = mapping.address(tracking.tracker)
    return tracking


def hand_over(
    ring: layout.Vring, tracking: Tracking, memory: layout.Memory, net: layout.Net, *, keep: bool
) -> int:
    """Leave nothing in flight in a stopped ring that `track` has prepared; return its place.

    Chains that the avail ring still has where they were offered will be popped from there again.
    The other chains come from another back-end, which gave chains back out of order. With `keep`
    they stay in flight (vhost-user VHOST_USER_GET_VRING_BASE), else they are given back unused. A
    region with nothing in flight is then as if it had never been used.
    """
    state, size = ring.state[0], int(ring.state[0]["size"])
    at, heads = int(state["next_avail"]), list(tracking.heads)
    while heads and ring.avail[avail_ring(size, at + len(heads) - 1)] == heads[-1]:
        tracking.clear(heads.pop())
    stands_at = (at + len(heads)) & _HALF
    if heads and keep:
        return stands_at
    for head in heads:
        slot = int(state["next_used"]) & (size - 1)
        ring.elements[2 * slot], ring.elements[2 * slot + 1] = head, 0
        state["next_used"] = (int(state["next_used"]) + 1) & _HALF
        state["next_avail"] = (int(state["next_avail"]) + 1) & _HALF
    flush_used(ring, memory, net)
    SPLIT.header_of(tracking.region)["version"] = 0
    return stands_at
