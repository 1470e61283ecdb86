# SPDX-License-Identifier: Apache-2.0
"""The guest's memory as SET_MEM_TABLE or ADD_MEM_REG describe it: checked as a whole, then mapped.

vhost-user "Memory access": every region has a guest address, used in descriptors, and a user
address, used in SET_VRING_ADDR. An address of either kind must be in one region only, so no two
regions may overlap in either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ovs_vhost_plugin.vhost.effects import MemoryRegion
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.fds.kept import KeptFd
from ovs_vhost_plugin.vhost.memory import mapping
from ovs_vhost_plugin.vhost.spec import MAX_MEM_SLOTS, MAX_REGIONS

# The compiled data path's row: guest address, size in bytes, and address in this process, each a
# u64.
REGION_DTYPE = np.dtype([("guest", "<u8"), ("size", "<u8"), ("host", "<u8")])

# The same regions by user address, which is the address that IOTLB messages carry.
USER_DTYPE = np.dtype([(name, "<u8") for name in ("user", "size", "host", "guest")])

_ADDRESS_SPACE = 1 << 64

Place = tuple[int, int, int]
"""Guest address, user address and size, which identify a region."""


@dataclass(frozen=True, slots=True)
class _Mapped:
    """A region's bytes, the device and inode of their file, and its fd."""

    view: mapping.Bytes
    file: tuple[int, int]
    fd: KeptFd


class MemoryTable:
    """The mapped regions of one memory table.

    Takes `fds` (one for each region, in order) and keeps them with the regions; closes them where
    it raises PeerError.
    `regions` is an array of REGION_DTYPE, sorted by guest address; `by_user` is an array of
    USER_DTYPE, sorted by user address. `in_place`: each region is mapped at its user address,
    where that is free.
    """

    def __init__(
        self, regions: Sequence[MemoryRegion], fds: Sequence[int], *, in_place: bool = False
    ) -> None:
        kept = [KeptFd(fd) for fd in fds]
        try:
            _check_table(regions, fds)
            mapped = {r: _map(r, fd, in_place) for r, fd in zip(regions, kept, strict=True)}
        except BaseException:
            for fd in kept:
                fd.close()
            raise
        self._set(mapped)
        self._gone: Sequence[Place] = ()

    def with_region(self, region: MemoryRegion, fd: int, *, in_place: bool = False) -> MemoryTable:
        """A table with `region` added (VHOST_USER_ADD_MEM_REG); takes the fd. Raises PeerError.

        A region at the same place is replaced. If it is of the same file, this table is returned:
        QEMU 7.2 sends both requests once for each queue pair. The two tables share mappings;
        either may be closed before the other.
        """
        place, kept = _place(region), KeptFd(fd)
        try:
            if region in self._mapped and self._mapped[region].file == _file(fd):
                kept.close()
                return self
            others = [one for one in self._mapped if _place(one) != place]
            if len(others) >= MAX_MEM_SLOTS:
                raise PeerError(PeerErrorName.REGIONS_TOO_MANY, str(len(others) + 1))
            _check([*others, region])
            added = {region: _map(region, kept, in_place)}
        except BaseException:
            kept.close()
            raise
        mapped = {one: self._mapped[one] for one in others} | added
        return self._made(mapped, [gone for gone in self._gone if gone != place])

    def without_region(self, region: MemoryRegion) -> MemoryTable:
        """A table without a region (VHOST_USER_REM_MEM_REG). Raises PeerError.

        "The memory region to be removed is identified by its guest address, user address and
        size. The mmap offset is ignored." A removed region may be removed again: see `with_region`.
        """
        place = _place(region)
        if place not in map(_place, self._mapped):
            if place not in self._gone:
                raise PeerError(PeerErrorName.REGION_UNKNOWN, str(region))
            return self
        left = {one: m for one, m in self._mapped.items() if _place(one) != place}
        return self._made(left, [*self._gone, place][-MAX_MEM_SLOTS:])

    @classmethod
    def empty(cls) -> MemoryTable:
        """A table without regions."""
        return cls._made({}, [])

    @classmethod
    def _made(cls, mapped: dict[MemoryRegion, _Mapped], gone: Sequence[Place]) -> MemoryTable:
        table = cls.__new__(cls)
        table._set(mapped)
        table._gone = gone
        return table

    def _set(self, mapped: dict[MemoryRegion, _Mapped]) -> None:
        self._mapped = mapped
        rows = [(r.guest_address, r.size, mapping.address(m.view)) for r, m in mapped.items()]
        self.regions: NDArray[np.void] = np.array(sorted(rows), dtype=REGION_DTYPE)
        users = [
            (r.user_address, r.size, mapping.address(m.view), r.guest_address)
            for r, m in mapped.items()
        ]
        self.by_user: NDArray[np.void] = np.array(sorted(users), dtype=USER_DTYPE)

    @property
    def guest_end(self) -> int:
        """The first guest address behind all regions; a dirty log has to reach up to it."""
        return max((region.guest_address + region.size for region in self._mapped), default=0)

    def view(self, user_address: int, length: int, align: int) -> mapping.Bytes:
        """`length` bytes at `user_address` of the front-end, within one region.

        They are aligned to `align` in this process too: the compiled code's loads and stores rely
        on it. Raises PeerError. Guest memory stays mapped as long as there is a view of it.
        """
        where = f"{length} bytes at {user_address:#x}"
        if user_address + length > _ADDRESS_SPACE:
            raise PeerError(PeerErrorName.VRING_ADDRESS_WRAPS, where)
        for region in self._mapped:  # and no view in a local: an error keeps its frames
            start = user_address - region.user_address
            if not 0 <= start < region.size:
                continue
            if start + length > region.size:
                raise PeerError(PeerErrorName.VRING_CROSSES_REGION, where)
            if (mapping.address(self._mapped[region].view) + start) % align:
                raise PeerError(PeerErrorName.VRING_MISALIGNED, f"{where}, not on {align}")
            return self._mapped[region].view[start : start + length]
        raise PeerError(PeerErrorName.VRING_OUTSIDE_MEMORY, where)

    def guest_address(self, user_address: int) -> int:
        """The guest's address of the byte at `user_address`. Raises PeerError."""
        region = self._region_of(user_address)
        return user_address - region.user_address + region.guest_address

    def file_place(self, user_address: int) -> tuple[int, int, int]:
        """The device, inode and file offset of `user_address`. Raises PeerError."""
        region = self._region_of(user_address)
        offset = user_address - region.user_address + region.mmap_offset
        return (*self._mapped[region].file, offset)

    def _region_of(self, user_address: int) -> MemoryRegion:
        for region in self._mapped:
            if 0 <= user_address - region.user_address < region.size:
                return region
        raise PeerError(PeerErrorName.VRING_OUTSIDE_MEMORY, f"{user_address:#x}")

    @property
    def files(self) -> list[tuple[MemoryRegion, int]]:
        """Each region with its fd, which stays the table's."""
        return [(region, mapped.fd.number) for region, mapped in self._mapped.items()]

    @property
    def gone(self) -> Sequence[Place]:
        """The places of regions that were removed, and may be removed again."""
        return tuple(self._gone)

    def with_gone(self, gone: Sequence[Place]) -> MemoryTable:
        """This table as one from which regions at `gone` were removed."""
        return self._made(self._mapped, gone[-MAX_MEM_SLOTS:])

    @property
    def views(self) -> list[mapping.Bytes]:
        """The bytes of each region."""
        return [mapped.view for mapped in self._mapped.values()]

    def bases(self, regions: Sequence[MemoryRegion]) -> tuple[int, ...]:
        """The addresses in this process of `regions`, which this table has."""
        return tuple(mapping.address(self._mapped[region].view) for region in regions)

    def split(self, user_address: int, size: int) -> list[tuple[int, int]]:
        """The parts (address, size) of a user address range, one for each region it lies in.

        Raises PeerError if some of the range lies in no region.
        """
        parts = []
        at, end = user_address, user_address + size
        while at < end:
            for region in self._mapped:
                left = region.user_address + region.size - at
                if 0 < left <= region.size:
                    parts.append((at, min(left, end - at)))
                    at += parts[-1][1]
                    break
            else:
                where = f"{size:#x} bytes at {user_address:#x}"
                raise PeerError(PeerErrorName.IOTLB_OUTSIDE_MEMORY, where)
        return parts

    def close(self) -> None:
        """Unmap the regions, each as soon as no view of it is held."""
        self._set({})


def _place(region: MemoryRegion) -> Place:
    return region.guest_address, region.user_address, region.size


def _check_table(regions: Sequence[MemoryRegion], fds: Sequence[int]) -> None:
    """Refuse a wrong table before anything is mapped."""
    if not regions:
        raise PeerError(PeerErrorName.REGIONS_NONE)
    if len(regions) > MAX_REGIONS:
        raise PeerError(PeerErrorName.REGIONS_TOO_MANY, str(len(regions)))
    if len(regions) != len(fds):
        detail = f"{len(regions)} regions, {len(fds)} fds"
        raise PeerError(PeerErrorName.REGIONS_FDS_DIFFER, detail)
    _check(regions)


def _check(regions: Sequence[MemoryRegion]) -> None:
    for region in regions:
        if region.size == 0:
            raise PeerError(PeerErrorName.REGION_SIZE_ZERO, str(region))
        for start, name in (
            (region.guest_address, PeerErrorName.REGION_GUEST_ADDRESS_WRAPS),
            (region.user_address, PeerErrorName.REGION_USER_ADDRESS_WRAPS),
            (region.mmap_offset, PeerErrorName.REGION_OFFSET_WRAPS),
        ):
            if start + region.size > _ADDRESS_SPACE:
                raise PeerError(name, str(region))
    _check_overlap(regions, lambda r: r.guest_address, PeerErrorName.REGION_OVERLAP_GUEST)
    _check_overlap(regions, lambda r: r.user_address, PeerErrorName.REGION_OVERLAP_USER)


def _check_overlap(
    regions: Sequence[MemoryRegion], start: Callable[[MemoryRegion], int], name: PeerErrorName
) -> None:
    ordered = sorted(regions, key=start)
    for lower, upper in pairwise(ordered):
        if start(lower) + lower.size > start(upper):
            raise PeerError(name, f"{lower} and {upper}")


def _file(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _map(region: MemoryRegion, kept: KeptFd, in_place: bool) -> _Mapped:
    wish, fd = region.user_address if in_place else 0, kept.number
    try:
        view = mapping.map_shared(fd, region.mmap_offset, region.size, wish)
        return _Mapped(view, _file(fd), kept)
    except mapping.TooShortError as error:
        raise PeerError(PeerErrorName.FILE_SHORTER_THAN_REGION, str(error)) from error
    except OSError as error:
        raise PeerError(PeerErrorName.REGION_MAP_FAILED, f"{region}: {error.strerror}") from error
