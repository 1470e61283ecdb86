# SPDX-License-Identifier: Apache-2.0
"""A guest behind an IOMMU: its driver uses I/O virtual addresses (IOVAs), mapped page by page.

vhost-user "IOMMU support": the front-end has the guest's translations. It sends the back-end one
when asked (IOTLB_MSG on the back-end channel), and invalidates it before the guest uses the page
for something else.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from ovs_vhost_plugin.guest.driver.memory import PAGE_SIZE, GuestMemory, OutsideMemoryError, Region
from ovs_vhost_plugin.guest.frontend.frontend import FrontEnd
from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.memory.scattered import join
from ovs_vhost_plugin.vhost.spec import FrontendRequest, IotlbAccess, IotlbType

FIRST_IOVA = 0xFFF0_0000
"""Below 4 GiB, so that allocations cross that boundary."""
_BOTH = IotlbAccess.READ | IotlbAccess.WRITE


class TranslatedMemory(GuestMemory):
    """Guest memory that the driver addresses by IOVA; pages next to each other lie apart in it.

    Every page is mapped when it is allocated, in the order of `seed`. Guest addresses of inherited
    methods are IOVAs, except in `snapshot`, `pages` and `written`: these use guest physical
    addresses, as the dirty log does.
    """

    def __init__(self, regions: Sequence[Region], seed: int = 1) -> None:
        super().__init__(regions)
        self._free = self.pages()
        random.Random(seed).shuffle(self._free)
        self.physical: dict[int, int] = {}
        """Number of the IOVA's page → number of the guest physical page."""
        self._next = FIRST_IOVA

    @classmethod
    def of_pages(cls, count: int, seed: int = 1) -> TranslatedMemory:
        """Memory of `count` pages in two regions."""
        half = count // 2 * PAGE_SIZE
        rest = count * PAGE_SIZE - half
        user = 0x7E00_0000_0000
        return cls([Region(1 << 24, half, user + (1 << 30)), Region(1 << 26, rest, user)], seed)

    def allocate(self, size: int, align: int = 16, may_cross: bool = False) -> int:
        """As GuestMemory: the IOVA of `size` bytes."""
        start = -(-self._next // align) * align
        for page in range(start // PAGE_SIZE, (start + size - 1) // PAGE_SIZE + 1):
            if page not in self.physical:
                self.physical[page] = self._free.pop()
        self._next = start + size
        return start

    def view(self, guest_address: int, length: int) -> memoryview:
        """As GuestMemory; the pages may lie apart."""
        pieces = self._pieces(guest_address, length)
        if len(pieces) == 1:
            return pieces[0]
        return join([np.frombuffer(piece, np.uint8) for piece in pieces]).data

    def user_address(self, guest_address: int) -> int:
        """The address of a ring for SET_VRING_ADDR: its IOVA."""
        return guest_address

    def place(self, iova: int) -> int:
        """The front-end's address of the byte at an IOVA."""
        page = self.physical.get(iova // PAGE_SIZE)
        if page is None:
            raise OutsideMemoryError(f"{iova:#x}")
        return super().user_address(page * PAGE_SIZE + iova % PAGE_SIZE)

    def replace(self, page: int) -> None:
        """Map an IOVA's page to another free page, and free the old one."""
        self._free.insert(0, self.physical[page])
        self.physical[page] = self._free.pop()

    def mark(self, guest_address: int, length: int) -> None:
        """As GuestMemory."""
        first, last = guest_address // PAGE_SIZE, (guest_address + length - 1) // PAGE_SIZE
        self.written.update(self.physical[page] for page in range(first, last + 1))

    def snapshot(self) -> dict[int, bytes]:
        """As GuestMemory, by guest physical pages."""
        pages = ((page, super(TranslatedMemory, self)._pieces(page * PAGE_SIZE, PAGE_SIZE))
                 for page in self.pages())  # fmt: skip
        return {page: b"".join(map(bytes, pieces)) for page, pieces in pages}

    def _pieces(self, guest_address: int, length: int) -> list[memoryview]:
        pieces: list[memoryview] = []
        at, end = guest_address, guest_address + length
        while at < end:
            page, offset = divmod(at, PAGE_SIZE)
            if page not in self.physical:
                raise OutsideMemoryError(f"{at:#x}")
            part = min(PAGE_SIZE - offset, end - at)
            pieces += super()._pieces(self.physical[page] * PAGE_SIZE + offset, part)
            at += part
        return pieces


class Iommu:
    """The front-end's answers to a back-end that misses translations of `memory`."""

    def __init__(self, memory: TranslatedMemory) -> None:
        self.memory = memory
        self.answered = _BOTH
        """Accesses for which a miss is answered."""
        self.allowed = _BOTH
        """Accesses that translations allow."""
        self.missed: list[tuple[int, IotlbAccess]] = []
        """The back-end's misses."""
        self.failed: list[tuple[int, IotlbAccess]] = []
        """The back-end's access failures: a translation did not allow the access."""

    def serve(self, frontend: FrontEnd, seconds: float = 0.0) -> None:
        """Answer the back-end's requests; if there are none, wait up to `seconds` for some."""
        assert frontend.channel is not None
        while (message := frontend.channel.receive(seconds)) is not None:
            iova, _, _, access, kind = spec.IOTLB.unpack(message.payload)
            if kind == IotlbType.MISS:
                self.missed.append((iova, IotlbAccess(access)))
                if self.answered & access:
                    self.update(frontend, iova)
            elif kind == IotlbType.ACCESS_FAIL:
                self.failed.append((iova, IotlbAccess(access)))
            frontend.channel.answer(message)
            seconds = 0.0

    def update(self, frontend: FrontEnd, iova: int) -> None:
        """Send the translation of the page that has `iova`."""
        start = iova // PAGE_SIZE * PAGE_SIZE
        user = self.memory.place(start)
        tell_iotlb(frontend, start, PAGE_SIZE, user, self.allowed, IotlbType.UPDATE)

    def invalidate(self, frontend: FrontEnd, iova: int, size: int) -> None:
        """Invalidate translations; when this returns the back-end uses them no more."""
        tell_iotlb(frontend, iova, size, 0, IotlbAccess(0), IotlbType.INVALIDATE)

    def move(self, frontend: FrontEnd, iova: int) -> None:
        """Map an IOVA to another page with the same content, and clear the old page."""
        page = iova // PAGE_SIZE
        self.invalidate(frontend, page * PAGE_SIZE, PAGE_SIZE)
        content = self.memory.read(page * PAGE_SIZE, PAGE_SIZE)
        self.memory.write(page * PAGE_SIZE, bytes(PAGE_SIZE))
        self.memory.replace(page)
        self.memory.write(page * PAGE_SIZE, content)


def tell_iotlb(
    frontend: FrontEnd, iova: int, size: int, user: int, access: IotlbAccess, kind: IotlbType
) -> None:
    """Send an IOTLB message and await its answer. Raises RequestRefusedError."""
    payload = spec.IOTLB.pack(iova, size, user, access, kind)
    frontend.connection.tell(FrontendRequest.IOTLB_MSG, payload, ack=True)
