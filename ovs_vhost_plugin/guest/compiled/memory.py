# SPDX-License-Identifier: Apache-2.0
"""Memory of a guest with a compiled driver, which marks each page that it writes by a byte."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ovs_vhost_plugin.guest.driver.memory import PAGE_SIZE, GuestMemory, Region

_START = 1 << 32


class MarkedMemory(GuestMemory):
    """Guest memory of one region; `marks` has a byte for each page, `marked_always` some of them.

    A kernel writes a page and then its mark. Taking clears the marks before anything is copied, so
    a write whose mark is lost in between is in the copy.
    """

    def __init__(self, region: Region) -> None:
        super().__init__([region])
        self.marks: NDArray[np.uint8] = np.zeros(region.size // PAGE_SIZE, np.uint8)
        self.marked_always: set[int] = set()
        """Pages that count as written each time: the rings, which change with each frame."""
        self._first = region.guest_address // PAGE_SIZE

    @classmethod
    def of_size(cls, size: int) -> MarkedMemory:
        """As GuestMemory."""
        return cls(Region(_START, -(-size // PAGE_SIZE) * PAGE_SIZE, 0x7E00_0000_0000, PAGE_SIZE))

    def elsewhere(self) -> MarkedMemory:
        """As GuestMemory."""
        region = self.regions[0]
        user = region.user_address + (1 << 40)
        memory = MarkedMemory(Region(region.guest_address, region.size, user, region.file_offset))
        memory.marked_always = self.marked_always
        return memory

    def mark_always(self, guest_address: int, length: int) -> None:
        """Count these pages as written each time."""
        last = (guest_address + length - 1) // PAGE_SIZE
        self.marked_always.update(range(guest_address // PAGE_SIZE, last + 1))

    def page_index(self, guest_address: int) -> int:
        """The index in `marks` of an address's page."""
        return guest_address // PAGE_SIZE - self._first

    def take_written(self) -> set[int]:
        """As GuestMemory, with the pages that the kernels marked."""
        marked = np.flatnonzero(self.marks)
        self.marks[marked] = 0
        return super().take_written() | self.marked_always | set((marked + self._first).tolist())

    def array(self, guest_address: int, count: int, kind: DTypeLike) -> NDArray[Any]:
        """`count` elements of guest memory as an array, through which a kernel reads and writes."""
        length = count * np.dtype(kind).itemsize
        return np.frombuffer(self.view(guest_address, length), kind)
