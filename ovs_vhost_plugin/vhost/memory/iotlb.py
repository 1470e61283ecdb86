# SPDX-License-Identifier: Apache-2.0
"""The device IOTLB: translations of I/O virtual addresses (IOVAs) by the front-end's IOMMU.

vhost-user "IOMMU support": with VIRTIO_F_IOMMU_PLATFORM guest addresses and the rings' addresses
are IOVAs. VHOST_USER_IOTLB_MSG translates them to user addresses, range by range, with the access
that the device has. The guest maps single pages, so a buffer often needs several translations;
each is looked up by itself, as the first may be present and the next missing.

Rows are sorted and do not overlap. There are at most `MAX_TRANSLATIONS`: the oldest is dropped,
and asked for again if it is missed, so that endless updates cost only their own front-end.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ovs_vhost_plugin.vhost.memory.table import MemoryTable
from ovs_vhost_plugin.vhost.spec import IotlbAccess

MAX_TRANSLATIONS = 8192

_ROW = np.dtype([(name, "<u8") for name in ("iova", "size", "user", "access", "serial")])
TRANSLATED = np.dtype([(name, "<u8") for name in ("guest", "size", "host", "logged", "access")])
"""The compiled data path's row: IOVA, bytes, address in this process, guest physical address (for
the dirty log), IotlbAccess."""

_ADDRESS_SPACE = 1 << 64

_Row = tuple[int, int, int, int, int]
Piece = tuple[int, int]
"""User address and length."""


class MissingError(Exception):
    """No translation of `iova` allows `access`: ask the front-end for one. Not a fault."""

    def __init__(self, iova: int, access: IotlbAccess) -> None:
        super().__init__(f"{iova:#x}, {access!r}")
        self.iova = iova
        self.access = access


class Iotlb:
    """Translations of one front-end."""

    def __init__(self) -> None:
        self.replaced = 0
        """Translations dropped to make room, since the start."""
        self._rows = np.zeros(0, _ROW)
        self._updates = 0

    def __len__(self) -> int:
        return len(self._rows)

    def update(self, iova: int, size: int, user: int, access: int) -> None:
        """Add a translation, in place of those of its range.

        If the same translation is present for another access, it now allows both: an IOMMU may
        answer with no more access than it was asked for.
        """
        first, last = self._overlapping(iova, iova + size)
        if last - first == 1 and self._row(first)[:3] == (iova, size, user):
            access |= self._row(first)[3]
        self._updates += 1
        translation = [(iova, size, user, access, self._updates)] if access else []
        self._replace(first, last, iova, iova + size, translation)

    def invalidate(self, iova: int, size: int) -> None:
        """Remove the translations of a range; their parts outside the range stay."""
        first, last = self._overlapping(iova, iova + size)
        self._replace(first, last, iova, iova + size, [])

    def clear(self) -> None:
        """Remove all translations."""
        self._rows = np.zeros(0, _ROW)

    def lookup(self, iova: int, length: int, access: IotlbAccess) -> list[Piece]:
        """The pieces of user memory at [iova, +length), as few as possible. Raises MissingError."""
        pieces: list[Piece] = []
        end = iova + length
        while iova < end:
            index, last = self._overlapping(iova, iova + 1)
            allowed = IotlbAccess(self._row(index)[3] if index < last else 0)
            if access & ~allowed:
                # One access at a time: an IOMMU answers with the access asked for, or more.
                raise MissingError(iova, next(iter(access & ~allowed)))
            start, size, user, *_ = self._row(index)
            at, part = user + iova - start, min(end, start + size) - iova
            if pieces and sum(pieces[-1]) == at:
                at, before = pieces.pop()
                pieces.append((at, before + part))
            else:
                pieces.append((at, part))
            iova += part
        return pieces

    def table(self, memory: MemoryTable) -> NDArray[np.void]:
        """All translations into `memory`, as rows of TRANSLATED sorted by IOVA.

        Translations into removed memory are left out.
        """
        rows, regions = self._rows, memory.by_user
        if len(regions) == 0:
            return np.zeros(0, TRANSLATED)
        owner = np.searchsorted(regions["user"], rows["user"], side="right").astype(np.int64) - 1
        region = regions[np.maximum(owner, 0)]
        offset = rows["user"] - region["user"]
        inside = (owner >= 0) & (offset < region["size"])
        inside &= rows["size"] <= region["size"] - np.minimum(offset, region["size"])
        table = np.zeros(len(rows), TRANSLATED)
        table["guest"] = rows["iova"]
        table["size"] = rows["size"]
        table["host"] = region["host"] + offset
        table["logged"] = region["guest"] + offset
        table["access"] = rows["access"]
        kept: NDArray[np.void] = table[inside]
        return kept

    def _row(self, index: int) -> _Row:
        row: _Row = self._rows[index].item()
        return row

    def _overlapping(self, start: int, end: int) -> tuple[int, int]:
        """The rows [first, last) that overlap [start, end); `end` may be 2**64."""
        starts = self._rows["iova"]
        first = int(np.searchsorted(starts, np.uint64(start), side="right"))
        if first and sum(self._row(first - 1)[:2]) > start:
            first -= 1
        last = len(starts)
        if end < _ADDRESS_SPACE:
            last = int(np.searchsorted(starts, np.uint64(end), side="left"))
        return first, last

    def _replace(self, first: int, last: int, start: int, end: int, by: Sequence[_Row]) -> None:
        """Cut [start, end) out of the rows [first, last), and put `by` in its place."""
        made = list(by)
        if first < last:
            iova, size, user, access, serial = self._row(first)
            if iova < start:
                made.insert(0, (iova, start - iova, user, access, serial))
            iova, size, user, access, serial = self._row(last - 1)
            if iova + size > end:
                made.append((end, iova + size - end, user + end - iova, access, serial))
        rows = np.concatenate((self._rows[:first], np.array(made, _ROW), self._rows[last:]))
        excess = len(rows) - MAX_TRANSLATIONS
        if excess > 0:
            self.replaced += excess
            rows = np.delete(rows, np.argsort(rows["serial"], kind="stable")[:excess])
        self._rows = rows


def overlap(table: NDArray[np.void], iova: int, size: int) -> bool:
    """Whether a row of TRANSLATED overlaps [iova, +size)."""
    if size == 0 or len(table) == 0:
        return False
    final = np.uint64(iova + size - 1)
    before = table["guest"] <= final
    behind = table["guest"] + (table["size"] - np.uint64(1)) >= np.uint64(iova)
    return bool(np.any(before & behind))
