# SPDX-License-Identifier: Apache-2.0
"""Postcopy migration of the software guest, as QEMU does it (vhost-user "VHOST_USER_POSTCOPY_...").

Up to the switch it is like any migration. Then the guest resumes at the destination without the
pages that were written since they were copied. Those pages follow: a page that somebody waits for
at once, the others one after the other.
"""

from __future__ import annotations

import fcntl
import os
import select
import threading
from collections.abc import Iterable
from random import Random
from struct import Struct

from ovs_vhost_plugin.guest.driver.memory import PAGE_SIZE, GuestMemory
from ovs_vhost_plugin.guest.frontend.frontend import FrontEnd
from ovs_vhost_plugin.guest.migrate import MemoryDiffersError, Migration, differing_pages
from ovs_vhost_plugin.guest.soft import SoftGuest
from ovs_vhost_plugin.vhost.memory.userfault import RANGE

# linux/userfaultfd.h: struct uffd_msg, its event and address of a page fault; UFFDIO_WAKE
_MESSAGE = Struct("=B15xQ8x")
_PAGE_FAULT = 0x12
_UFFDIO_WAKE = 0x8010AA02


class PageServer:
    """Brings the late pages, in a thread of its own.

    The back-end's faults come by its userfaultfd; the guest itself asks before it touches a page.
    A page is written into the file as a whole: nobody sees half of it.
    """

    def __init__(
        self,
        userfaultfd: int,
        memory: GuestMemory,
        late: dict[int, bytes],
        pause: float,
        rng: Random,
    ) -> None:
        """`late`: pages by number. Every `pause` seconds one is brought without being asked for."""
        self.faults: list[int] = []
        """Numbers of the pages that the back-end waited for."""
        self._userfaultfd = userfaultfd
        self._memory = memory
        self._late = dict(late)
        self._pause = pause
        self._order = list(late)
        rng.shuffle(self._order)
        self._bases = [0] * len(memory.regions)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="pages", daemon=True)
        memory.before_access = self._bring_range

    def start(self, bases: list[int]) -> None:
        """Serve a back-end that has mapped the regions at `bases`."""
        self._bases = bases
        self._thread.start()

    def finish(self) -> None:
        """Await the last page."""
        self._thread.join()

    def _serve(self) -> None:
        while self._late:
            if select.select([self._userfaultfd], [], [], self._pause)[0]:
                self._serve_fault()
            elif self._order:
                self._bring(self._order.pop())

    def _serve_fault(self) -> None:
        event, address = _MESSAGE.unpack(os.read(self._userfaultfd, _MESSAGE.size))
        if event != _PAGE_FAULT:
            raise RuntimeError(f"userfaultfd event {event:#x}")
        for region, base in zip(self._memory.regions, self._bases, strict=True):
            if 0 <= address - base < region.size:
                page = (region.guest_address + address - base) // PAGE_SIZE
                self.faults.append(page)
                self._bring(page)

    def _bring_range(self, guest_address: int, length: int) -> None:
        last = (guest_address + length - 1) // PAGE_SIZE
        for page in range(guest_address // PAGE_SIZE, last + 1):
            self._bring(page)

    def _bring(self, page: int) -> None:
        """Bring a page if it is still late, and wake the threads that wait for it."""
        with self._lock:
            content = self._late.get(page)
            places = zip(self._memory.regions, self._memory.fds, self._bases, strict=True)
            for region, fd, base in places:
                offset = page * PAGE_SIZE - region.guest_address
                if 0 <= offset < region.size:
                    if content is not None:
                        os.pwrite(fd, content, region.file_offset + offset)
                    if base:
                        waiting = RANGE.pack(base + offset, PAGE_SIZE)
                        fcntl.ioctl(self._userfaultfd, _UFFDIO_WAKE, waiting)
            self._late.pop(page, None)


class PostcopyMigration(Migration):
    """A migration in which the guest resumes before all of its memory has come."""

    def __init__(self, guest: SoftGuest, destination: FrontEnd, rng: Random) -> None:
        """As Migration; `rng` decides the order in which pages follow."""
        super().__init__(guest, destination)
        self._rng = rng
        self._userfaultfd = destination.advise_postcopy()

    def go_ahead(self, further: Iterable[int] = (), pause: float = 0.01) -> PageServer:
        """Stop at the source and resume at the destination; pages written meanwhile follow.

        The pages `further` follow too, as if they had not been copied yet. A page that the source
        wrote and did not log raises MemoryDiffersError.
        """
        guest = self.guest
        bases = guest.stop_rings()
        late = (self.log.logged() | guest.memory.take_written() | set(further)) & self._pages
        if pages := set(differing_pages(guest.memory, self.memory)) - late:
            raise MemoryDiffersError(f"pages {sorted(pages)}")
        contents = {page: guest.memory.read(page * PAGE_SIZE, PAGE_SIZE) for page in late}
        for page in late:
            self.memory.discard(page)
        server = PageServer(self._userfaultfd, self.memory, contents, pause, self._rng)
        self.destination.listen_postcopy()
        guest.move_to(self.memory)
        guest.run_on(self.destination, bases)
        server.start(self.destination.bases or [])
        return server

    def finish(self, server: PageServer) -> None:
        """Await all pages, and tell the destination."""
        server.finish()
        self.destination.end_postcopy()
        os.close(self._userfaultfd)
        self.memory.before_access = lambda _address, _length: None
