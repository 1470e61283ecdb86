# SPDX-License-Identifier: Apache-2.0
"""The four structs of vhost-user "Inflight I/O tracking". No other file spells them.

An in-flight region has a part for each vring: a header, and an entry for each descriptor of the
largest ring that it is for. A front-end keeps the region, and gives it to the next back-end. An
entry is named by its index. In a split ring it belongs to the descriptor of the same index; in a
packed ring it is a place for a copy of any descriptor.

`vhost/memory/` makes and maps regions, `jit/recovery/` writes parts, and `worker/recovery/` reads
them. Fields have the host's byte order, which is little-endian wherever this runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = 1
"""The version of both layouts; a part of version 0 was never used."""

QUEUE_REGION_SPLIT_DTYPE = np.dtype(
    [
        ("features", "<u8"),  # flags of the region's own features; none is defined: 0
        ("version", "<u2"),  # VERSION or 0
        ("desc_num", "<u2"),  # number of entries
        ("last_batch_head", "<u2"),  # entry of the last chain of the last batch of used chains
        ("used_idx", "<u2"),  # used index up to which chains are not marked as in flight
    ]
)
"""struct QueueRegionSplit, before its entries."""

DESC_STATE_SPLIT_DTYPE = np.dtype(
    [
        ("inflight", "u1"),  # the mark, 1: the chain that begins here is in flight
        ("padding", "u1", 5),
        ("next", "<u2"),  # entry of the chain before this one in the last batch of used chains
        ("counter", "<u8"),  # order in which chains were taken: lower is earlier
    ]
)
"""struct DescStateSplit: that of the chain whose head is this descriptor."""

QUEUE_REGION_PACKED_DTYPE = np.dtype(
    [
        ("features", "<u8"),  # flags of the region's own features; none is defined: 0
        ("version", "<u2"),  # VERSION or 0
        ("desc_num", "<u2"),  # number of entries
        ("free_head", "<u2"),  # first of the list of free entries; desc_num: there is none
        ("old_free_head", "<u2"),  # the same before the batch that is being used
        ("used_idx", "<u2"),  # slot of the next used descriptor
        ("old_used_idx", "<u2"),  # the same before the batch that is being used
        ("used_wrap_counter", "u1"),  # wrap counter that belongs to used_idx: 0 or 1
        ("old_used_wrap_counter", "u1"),  # wrap counter that belongs to old_used_idx
        ("padding", "u1", 10),  # the specification's 7, and 3 that align the entries
    ]
)
"""struct QueueRegionPacked, before its entries."""

DESC_STATE_PACKED_DTYPE = np.dtype(
    [
        ("inflight", "u1"),  # the mark, 1: the chain whose first descriptor this is is in flight
        ("padding", "u1"),
        ("next", "<u2"),  # next entry of the chain, or of the free list
        ("last", "<u2"),  # entry of the chain's last descriptor; in its first entry
        ("num", "<u2"),  # number of the chain's descriptors; in its first entry
        ("counter", "<u8"),  # order in which chains were taken: lower is earlier; in the first
        ("id", "<u2"),  # a copy of struct pvirtq_desc from here on: the buffer id
        ("flags", "<u2"),
        ("len", "<u4"),  # bytes of the buffer
        ("addr", "<u8"),  # guest address of the buffer
    ]
)
"""struct DescStatePacked: a copy of a descriptor in flight, or a free entry."""


@dataclass(frozen=True, slots=True)
class InflightLayout:
    """The layout of a vring's part: `header`, and `entry` as often as there are descriptors."""

    header: np.dtype[Any]
    entry: np.dtype[Any]

    def length(self, descriptors: int) -> int:
        """Bytes of the part of a vring of so many descriptors."""
        return self.header.itemsize + self.entry.itemsize * descriptors

    def header_of(self, part: NDArray[np.uint8]) -> Any:
        """A view of the header of `part`: a record, whose fields are read and written by name."""
        return part[: self.header.itemsize].view(self.header)[0]

    def entries_of(self, part: NDArray[np.uint8]) -> NDArray[Any]:
        """A view of the entries of `part`."""
        return part[self.header.itemsize :].view(self.entry)


SPLIT = InflightLayout(QUEUE_REGION_SPLIT_DTYPE, DESC_STATE_SPLIT_DTYPE)
PACKED = InflightLayout(QUEUE_REGION_PACKED_DTYPE, DESC_STATE_PACKED_DTYPE)


def layout_of(*, packed: bool) -> InflightLayout:
    """The layout of the parts of packed rings, or of split ones."""
    return PACKED if packed else SPLIT
