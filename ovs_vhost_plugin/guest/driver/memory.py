# SPDX-License-Identifier: Apache-2.0
"""Guest memory: the RAM of a software guest, in memory files that a back-end can map too.

The same byte has three addresses, and confusing them is the classic mistake of a back-end:

- the *guest physical address*, which the driver writes into descriptors;
- the *user address*, at which the front-end (QEMU) maps it, and by which it sends the rings;
- the address at which this or any other process really maps it.

Here the three always differ. Regions may be anywhere, and several may follow each other, so that
a buffer can lie across two of them (legal: virtio knows only physical addresses).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PAGE_SIZE = 4096
"""The dirty log's unit (vhost-user "Migration": one bit for each 4096 bytes), on every host."""


class OutsideMemoryError(Exception):
    """A guest address range that is in no region."""


@dataclass(frozen=True, slots=True)
class Region:
    """A piece of guest memory, as SET_MEM_TABLE describes it."""

    guest_address: int
    size: int
    user_address: int
    file_offset: int = 0
    """The region's offset in its file; the bytes before it are unused."""

    def holds(self, guest_address: int, length: int) -> bool:
        """Whether the whole range lies in this region."""
        offset = guest_address - self.guest_address
        return offset >= 0 and offset + length <= self.size


class GuestMemory:
    """Mapped regions, a simple allocator, and a record of the pages that the guest wrote itself.

    The record stands for a hypervisor's tracking by page tables: together with the back-end's dirty
    log it gives the pages that a migration has to send again.
    """

    def __init__(self, regions: Sequence[Region]) -> None:
        self.regions = tuple(sorted(regions, key=lambda region: region.guest_address))
        self.fds = tuple(os.memfd_create("guest-memory") for _ in self.regions)
        self._views = [_map(fd, region) for fd, region in zip(self.fds, self.regions, strict=True)]
        self._next = self.regions[0].guest_address
        self.written: set[int] = set()
        """Numbers of the pages (guest address / 4096) written by the guest, until taken."""
        self.before_access: Callable[[int, int], object] = lambda _address, _length: None
        """Called with each range before the guest touches it: its pages may have to be brought."""

    @classmethod
    def of_size(cls, size: int) -> GuestMemory:
        """Memory of one region of at least `size` bytes, above 4 GiB as a machine's high memory."""
        return cls([Region(1 << 32, _align(size, PAGE_SIZE), 0x7E00_0000_0000, PAGE_SIZE)])

    def elsewhere(self) -> GuestMemory:
        """Empty memory of the same shape in other files and at other user addresses.

        The destination of a migration has such memory: only guest addresses stay.
        """
        shift = 1 << 40
        memory = GuestMemory(
            [Region(r.guest_address, r.size, r.user_address + shift, 0) for r in self.regions]
        )
        memory._next = self._next
        return memory

    @property
    def end(self) -> int:
        """The guest address behind the last region: the dirty log must reach up to it."""
        return max(region.guest_address + region.size for region in self.regions)

    def close(self) -> None:
        """Close the files; a mapping goes with its last view."""
        for fd in self.fds:
            os.close(fd)
        self.fds = ()
        self._views = []

    def allocate(self, size: int, align: int = 16, may_cross: bool = False) -> int:
        """Allocate `size` bytes, with `may_cross` also across regions; return the guest address.

        Memory is never freed: queues allocate once, when they are made.
        """
        start = _align(self._next, align)
        while not (self._contiguous(start, size) if may_cross else self._find(start, size)):
            later = [r.guest_address for r in self.regions if r.guest_address > start]
            if not later:
                raise OutsideMemoryError(f"no room for {size} bytes")
            start = _align(later[0], align)
        self._next = start + size
        return start

    def view(self, guest_address: int, length: int) -> memoryview:
        """A view of bytes of one region, for rings; a writer through it calls `mark`."""
        self.before_access(guest_address, length)
        found = self._find(guest_address, length)
        if found is None:
            raise OutsideMemoryError(f"{guest_address:#x}+{length:#x}")
        region, view = found
        offset = guest_address - region.guest_address
        return view[offset : offset + length]

    def user_address(self, guest_address: int) -> int:
        """The front-end's address of a byte."""
        found = self._find(guest_address, 1)
        if found is None:
            raise OutsideMemoryError(f"{guest_address:#x}")
        region = found[0]
        return guest_address - region.guest_address + region.user_address

    def read(self, guest_address: int, length: int) -> bytes:
        """Copy bytes out; the range may span contiguous regions."""
        return b"".join(bytes(piece) for piece in self._pieces(guest_address, length))

    def write(self, guest_address: int, data: bytes | memoryview) -> None:
        """Copy bytes in, as the guest's processor does; the range may span contiguous regions."""
        done = 0
        for piece in self._pieces(guest_address, len(data)):
            piece[:] = data[done : done + len(piece)]
            done += len(piece)
        self.mark(guest_address, len(data))

    def mark(self, guest_address: int, length: int) -> None:
        """Record that the guest wrote this range."""
        first, last = guest_address // PAGE_SIZE, (guest_address + length - 1) // PAGE_SIZE
        self.written.update(range(first, last + 1))

    def take_written(self) -> set[int]:
        """The numbers of the pages that the guest wrote since the last call of this."""
        taken, self.written = self.written, set()
        return taken

    def pages(self) -> list[int]:
        """The numbers of all pages, ascending."""
        return [
            page
            for region in self.regions
            for page in range(
                region.guest_address // PAGE_SIZE,
                (region.guest_address + region.size) // PAGE_SIZE,
            )
        ]

    def discard(self, page: int) -> None:
        """Make a hole in the file in place of a page."""
        found = self._find(page * PAGE_SIZE, PAGE_SIZE)
        if found is None:
            raise OutsideMemoryError(f"page {page:#x}")
        region, view = found
        offset = region.file_offset + page * PAGE_SIZE - region.guest_address
        mapped = view.obj
        assert isinstance(mapped, mmap.mmap)
        mapped.madvise(mmap.MADV_REMOVE, offset, PAGE_SIZE)

    def snapshot(self) -> dict[int, bytes]:
        """The content of every page, by its number."""
        return {page: self.read(page * PAGE_SIZE, PAGE_SIZE) for page in self.pages()}

    def _find(self, guest_address: int, length: int) -> tuple[Region, memoryview] | None:
        for region, view in zip(self.regions, self._views, strict=True):
            if region.holds(guest_address, length):
                return region, view
        return None

    def _contiguous(self, guest_address: int, length: int) -> bool:
        try:
            self._pieces(guest_address, length)
        except OutsideMemoryError:
            return False
        return True

    def _pieces(self, guest_address: int, length: int) -> list[memoryview]:
        """The parts of a range, one for each region it lies in."""
        self.before_access(guest_address, length)
        pieces: list[memoryview] = []
        at, end = guest_address, guest_address + length
        while at < end:
            found = self._find(at, 1)
            if found is None:
                raise OutsideMemoryError(f"{guest_address:#x}+{length:#x}")
            region, view = found
            offset = at - region.guest_address
            pieces.append(view[offset : offset + end - at])
            at += len(pieces[-1])
        return pieces


def _map(fd: int, region: Region) -> memoryview:
    length = region.file_offset + region.size
    os.ftruncate(fd, length)
    return memoryview(mmap.mmap(fd, length))[region.file_offset :]


def _align(value: int, to: int) -> int:
    return -(-value // to) * to
