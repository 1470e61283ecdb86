# SPDX-License-Identifier: Apache-2.0
"""A packed ring that resumes by its front-end's inflight region, or is handed over.

As for split rings (`inflight_split.py`), and more: a packed ring has no used index, so the region
also has the ring's position. The chains in flight fill the descriptors from the position on, in
whatever order chains were given back. So the chains are written there anew, oldest first, and the
ring is then as if no chain had been taken from it. The driver reads no more of these descriptors
than their flags.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovs_vhost_plugin.common.inflight_layout import PACKED, VERSION
from ovs_vhost_plugin.jit import layout
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.recovery.inflight_packed import (
    TRACKER,
    write_free_heads,
    write_used_idx,
)
from ovs_vhost_plugin.jit.ring.descriptor import F_AVAIL, F_NEXT, F_USED
from ovs_vhost_plugin.jit.ring.packed import mark_descriptors
from ovs_vhost_plugin.vhost.memory import mapping
from ovs_vhost_plugin.worker.recovery.tracking import Bytes, DamagedError, Tracking

_MOST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class _Found:
    """The checked content of a ring's region."""

    entries: NDArray[Any]
    position: int  # the ring's used position
    free: list[int]  # entries, in the order of their list
    chains: list[list[int]]  # entries of each chain in flight, oldest first


def track(
    ring: layout.Vring, region: Bytes, memory: layout.Memory, net: layout.Net
) -> PackedTracking:
    """As `inflight.track`.

    A used region has the position at which the ring resumes; else the front-end has set it.
    """
    state, size = ring.state[0], int(ring.state[0]["size"])
    if PACKED.header_of(region)["version"] == 0:
        _make(region, size, int(state["next_avail"]))
    found = _read(ring, region)
    _complete_update(region, found, size)
    _restore(ring, found, memory, net)
    tracker = _tracker(region, found, size)
    for name in ("next_avail", "next_pop", "avail_idx", "next_used", "flushed"):
        state[name] = found.position
    state["tracked"] = mapping.address(tracker)
    heads = [chain[0] for chain in found.chains]
    return PackedTracking(ring, region, memory, net, tracker, heads)


@dataclass(frozen=True, slots=True)
class PackedTracking(Tracking):
    """A packed ring that is tracked."""

    def hand_over(self, *, keep: bool) -> int:
        """As `Tracking.hand_over`. All chains in flight are in the ring again: none is kept."""
        PACKED.header_of(self.region)["version"] = 0  # first: without it the rest is void
        self.region[:] = 0
        return int(self.ring.state[0]["next_avail"])


def _make(region: Bytes, size: int, position: int) -> None:
    """Begin a queue's region: nothing is in flight, and all entries are free."""
    region[:] = 0
    entries = PACKED.entries_of(region)
    entries["next"] = np.arange(1, len(entries) + 1)
    write_used_idx(mapping.address(region), size, position, position)
    write_free_heads(mapping.address(region), len(entries), 0, 0)


def _read(ring: layout.Vring, region: Bytes) -> _Found:
    """The content of the region, which must fit the ring. Raises DamagedError."""
    copy = region.copy()
    header, entries = PACKED.header_of(copy), PACKED.entries_of(copy)
    if (header["version"], header["features"], header["desc_num"]) != (VERSION, 0, len(entries)):
        raise DamagedError(Fault.INFLIGHT_VERSION)
    size = int(ring.state[0]["size"])
    now, old = _position(header, size, ""), _position(header, size, "old_")
    shown = now != old and not _is_available(ring, old)
    free = _free_list(entries, int(header["free_head" if shown else "old_free_head"]))
    chains = _chains(entries, free)
    found = _Found(entries, now if shown else old, free, chains)
    _check(ring, found)
    return found


def _position(header: Any, size: int, which: str) -> int:
    slot, wrap = int(header[f"{which}used_idx"]), int(header[f"{which}used_wrap_counter"])
    if slot >= size or wrap > 1:
        raise DamagedError(Fault.INFLIGHT_OUT_OF_RANGE)
    return slot if wrap else slot + size


def _flags(ring: layout.Vring, position: int) -> int:
    return int(ring.desc[2 * (position % int(ring.state[0]["size"])) + 1]) >> 48


def _available(ring: layout.Vring, position: int) -> int:
    """The flags of an available descriptor at `position` (virtio 1.2, 2.8.1)."""
    return F_AVAIL if position < int(ring.state[0]["size"]) else F_USED


def _is_available(ring: layout.Vring, position: int) -> bool:
    return _flags(ring, position) & (F_AVAIL | F_USED) == _available(ring, position)


def _free_list(entries: NDArray[Any], head: int) -> list[int]:
    """The free entries in order; the list ends with an index out of range, as DPDK's does."""
    found: dict[int, None] = {}
    while head < len(entries):
        if head in found:
            raise DamagedError(Fault.INFLIGHT_LOOPS)
        found[head] = None
        head = int(entries[head]["next"])
    return list(found)


def _chains(entries: NDArray[Any], free: list[int]) -> list[list[int]]:
    """The entries of each chain in flight, oldest first."""
    marked = entries["inflight"] == 1
    marked[free] = False
    heads = np.flatnonzero(marked)
    heads = heads[np.argsort(entries["counter"][heads], kind="stable")]
    seen = set(free)
    chains = []
    for head in heads:
        chain, at = [], int(head)
        for _ in range(int(entries[head]["num"])):
            if at >= len(entries):
                raise DamagedError(Fault.INFLIGHT_OUT_OF_RANGE)
            if at in seen:
                raise DamagedError(Fault.INFLIGHT_LOOPS)
            seen.add(at)
            chain.append(at)
            at = int(entries[at]["next"])
        if not chain or chain[-1] != entries[head]["last"]:
            raise DamagedError(Fault.INFLIGHT_OUT_OF_RANGE)
        chains.append(chain)
    if len(seen) != len(entries):
        raise DamagedError(Fault.INFLIGHT_OUT_OF_RANGE)  # some entries are in no list
    return chains


def _check(ring: layout.Vring, found: _Found) -> None:
    """Check that chains end where they say, and that the ring had so many available descriptors."""
    for chain in found.chains:
        flags = [int(found.entries[at]["flags"]) for at in chain]
        follows = [flag & F_NEXT != 0 for flag in flags]
        if follows != [True] * (len(chain) - 1) + [False]:
            raise DamagedError(Fault.INFLIGHT_OUT_OF_RANGE)
    size = int(ring.state[0]["size"])
    count = sum(map(len, found.chains))
    if count > size:
        raise DamagedError(Fault.INFLIGHT_STALE)
    for i in range(count):
        position = (found.position + i) % (2 * size)
        # The descriptor is still available, or it was used in a burst that the driver did not see.
        if (_flags(ring, position) & F_AVAIL != 0) != (position < size):
            raise DamagedError(Fault.INFLIGHT_STALE)


def _complete_update(region: Bytes, found: _Found, size: int) -> None:
    """Finish or undo the update that was under way when the region was last written."""
    head = found.free[0] if found.free else len(found.entries)
    write_free_heads(mapping.address(region), len(found.entries), head, head)
    write_used_idx(mapping.address(region), size, found.position, found.position)
    for at in found.free:
        if found.entries[at]["inflight"]:
            PACKED.entries_of(region)[at]["inflight"] = 0


def _restore(ring: layout.Vring, found: _Found, memory: layout.Memory, net: layout.Net) -> None:
    """Write the descriptors in flight into the ring, except those that are still there."""
    size = int(ring.state[0]["size"])
    order = [at for chain in found.chains for at in chain]
    for i, at in enumerate(order):
        position = (found.position + i) % (2 * size)
        slot, entry = position % size, found.entries[at]
        flags = int(entry["flags"]) & ~(F_AVAIL | F_USED) | _available(ring, position)
        word = int(entry["len"]) | int(entry["id"]) << 32 | flags << 48
        if (int(ring.desc[2 * slot]), int(ring.desc[2 * slot + 1])) == (int(entry["addr"]), word):
            continue
        ring.desc[2 * slot] = entry["addr"]
        ring.desc[2 * slot + 1] = word
        if ring.state[0]["log_used"]:
            mark_descriptors(ring, memory, net, position, 1)


def _tracker(region: Bytes, found: _Found, size: int) -> Bytes:
    """The kernels' record of the chains in flight."""
    number = len(found.entries)
    tracker = np.zeros(TRACKER.length(number), np.uint8)
    record, entries = TRACKER.header_of(tracker), TRACKER.entries_of(tracker)
    counters = [int(found.entries[chain[0]]["counter"]) for chain in found.chains]
    record["region"], record["size"], record["number"] = mapping.address(region), size, number
    record["next_counter"] = (counters[-1] + 1) & _MOST if counters else 0
    record["free"] = found.free[0] if found.free else number
    record["free_count"] = len(found.free)
    record["held"] = record["known"] = len(found.chains)
    record["flushed"] = found.position
    entries["next"] = found.entries["next"]
    for i, chain in enumerate(found.chains):
        entries[i]["head"] = chain[0]
        entries[chain[0]]["last"], entries[chain[0]]["num"] = chain[-1], len(chain)
    return tracker
