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
from ovs_vhost_plugin.worker.recovery.tracking import Bytes, DamagedError, Tracking

_HALF = 0xFFFF
_MOST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class _Found:
    """The checked content of a ring's region."""

    entries: NDArray[Any]
    left_over: list[int]  # heads of the last batch, whose marks may still be set
    heads: list[int]  # of the chains in flight, oldest first


def track(
    ring: layout.Vring, region: Bytes, memory: layout.Memory, net: layout.Net
) -> SplitTracking:
    """As `inflight.track`.

    The chains in flight were taken from the avail ring before. So the ring resumes at its used
    index, and the front-end's base may be further on by the number of chains in flight, or also
    by the chains that the driver has offered since.
    """
    state = ring.state[0]
    size, at, used = int(state["size"]), int(state["next_avail"]), int(state["next_used"])
    if SPLIT.header_of(region)["version"] == 0:
        _make(region, used)
    found = _read(ring, region)
    _complete_update(region, found, used)
    tracker = _tracker(region, found, size, at)
    if found.heads:
        state["avail_idx"] = (at + len(found.heads)) & _HALF
    state["tracked"] = mapping.address(tracker)
    return SplitTracking(ring, region, memory, net, tracker, found.heads)


@dataclass(frozen=True, slots=True)
class SplitTracking(Tracking):
    """A split ring that is tracked."""

    def hand_over(self, *, keep: bool) -> int:
        """As `Tracking.hand_over`.

        Chains that the avail ring still has where they were offered will be popped from there
        again. The other chains come from another back-end, which gave chains back out of order.
        With `keep` they stay in flight, else they are given back unused.
        """
        ring, entries = self.ring, SPLIT.entries_of(self.region)
        state, size = ring.state[0], int(ring.state[0]["size"])
        at, heads = int(state["next_avail"]), list(self.heads)
        while heads and ring.avail[avail_ring(size, at + len(heads) - 1)] == heads[-1]:
            entries[heads.pop()]["inflight"] = 0
        resumes_at = (at + len(heads)) & _HALF
        if heads and keep:
            return resumes_at
        for head in heads:
            slot = int(state["next_used"]) & (size - 1)
            ring.elements[2 * slot], ring.elements[2 * slot + 1] = head, 0
            state["next_used"] = (int(state["next_used"]) + 1) & _HALF
            state["next_avail"] = (int(state["next_avail"]) + 1) & _HALF
        flush_used(ring, self.memory, self.net)
        SPLIT.header_of(self.region)["version"] = 0
        return resumes_at


def _make(region: Bytes, used: int) -> None:
    """Begin a queue's region: nothing is in flight."""
    region[:] = 0
    header = SPLIT.header_of(region)
    header["desc_num"], header["used_idx"] = len(SPLIT.entries_of(region)), used
    header["version"] = VERSION  # last: until then the rest is void


def _read(ring: layout.Vring, region: Bytes) -> _Found:
    """The content of the region, which must fit the ring. Raises DamagedError."""
    copy, state = region.copy(), ring.state[0]
    header, entries = SPLIT.header_of(copy), SPLIT.entries_of(copy)
    if (header["version"], header["features"], header["desc_num"]) != (VERSION, 0, len(entries)):
        raise DamagedError(Fault.INFLIGHT_VERSION)
    marked = entries["inflight"] == 1
    left_over = _last_batch(header, entries, int(state["next_used"])) if marked.any() else []
    marked[left_over] = False
    heads = np.flatnonzero(marked)
    if len(heads) and heads[-1] >= state["size"]:
        raise DamagedError(Fault.INFLIGHT_OUT_OF_RANGE)
    offered = (int(ring.avail[AVAIL_IDX]) - int(state["next_avail"])) & _HALF
    if len(heads) > offered:
        raise DamagedError(Fault.INFLIGHT_STALE)
    heads = heads[np.argsort(entries["counter"][heads], kind="stable")]
    return _Found(entries, left_over, [int(head) for head in heads])


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


def _complete_update(region: Bytes, found: _Found, used: int) -> None:
    """Finish or undo the update that was under way when the region was last written."""
    for head in found.left_over:
        SPLIT.entries_of(region)[head]["inflight"] = 0
    SPLIT.header_of(region)["used_idx"] = used


def _tracker(region: Bytes, found: _Found, size: int, at: int) -> Bytes:
    """The kernels' record of the chains in flight, the oldest of which is at avail index `at`."""
    tracker = np.zeros(TRACKER.length(size), np.uint8)
    record, entries = TRACKER.header_of(tracker), TRACKER.entries_of(tracker)
    counters = [int(found.entries[head]["counter"]) for head in found.heads]
    record["region"], record["size"] = mapping.address(region), size
    record["next_counter"] = (counters[-1] + 1) & _MOST if counters else 0
    for i, head in enumerate(found.heads):
        entries[(at + i) % size]["head"] = head
    return tracker
