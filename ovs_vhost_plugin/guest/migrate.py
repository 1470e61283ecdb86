# SPDX-License-Identifier: Apache-2.0
"""Live migration of the software guest, step by step as QEMU does it (vhost-user "Migration").

    begin        the source starts logging its writes; everything is copied once
    copy_dirty   pages written meanwhile are copied, again and again, while the rings run
    switch       the source's rings are stopped, its back-end's state and the last pages copied,
                 the two memories compared, and the rings started at the destination where the
                 source left them
    announce     the network is told, in rounds

Between the steps the caller lets traffic flow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np

from ovs_vhost_plugin.guest.driver.memory import PAGE_SIZE, GuestMemory
from ovs_vhost_plugin.guest.frontend.connection import BackEndError
from ovs_vhost_plugin.guest.frontend.dirtylog import DirtyBitmap
from ovs_vhost_plugin.guest.frontend.frontend import FrontEnd, VringSetup
from ovs_vhost_plugin.guest.soft import Config
from ovs_vhost_plugin.vhost.spec import Feature, ProtocolFeature

ANNOUNCE_ROUNDS = (0.0, 0.05, 0.15, 0.25, 0.35)
"""Seconds before each round: QEMU's announce-initial 50 ms, then 100 ms longer each time."""


class MemoryDiffersError(BackEndError):
    """The source wrote pages without logging them: the guest's memory has arrived damaged."""


class ChainsLostError(BackEndError):
    """The source stopped with chains that it took and did not use."""


class MigratingGuest(Protocol):
    """A guest as a migration sees it; each method is as in `SoftGuest`."""

    config: Config
    frontend: FrontEnd | None

    @property
    def memory(self) -> GuestMemory:
        """The guest's memory."""

    @property
    def vrings(self) -> list[VringSetup]:
        """All vrings in the order of their indices."""

    def stop_rings(self) -> list[int]:
        """Stop the driver and all vrings; return the bases."""

    def move_to(self, memory: GuestMemory) -> None:
        """Move to other memory with the same content."""

    def run_on(self, frontend: FrontEnd, bases: Sequence[int]) -> None:
        """Run on another back-end."""

    def announce(self) -> None:
        """Announce the guest, as its driver does."""


class Migration:
    """The live migration of a running guest to another back-end."""

    def __init__(self, guest: MigratingGuest, destination: FrontEnd) -> None:
        """`destination` is connected and initialised, and has no memory yet."""
        if guest.frontend is None:
            raise RuntimeError("the guest does not run")
        self.guest = guest
        self.source = guest.frontend
        self.destination = destination
        self.memory = guest.memory.elsewhere()
        self.log = DirtyBitmap(guest.memory)
        self._pages = frozenset(guest.memory.pages())

    def begin(self) -> None:
        """Start logging, then copy all of the memory."""
        self.guest.memory.take_written()
        self.source.start_logging(self.log, self.guest.vrings)
        self._copy(self._pages)

    def copy_dirty(self) -> int:
        """Copy the pages written since the last copy; return how many. The rings run on."""
        return self._copy(self.log.harvest() | self.guest.memory.take_written())

    def switch(self) -> None:
        """Stop at the source and resume at the destination. This call's length is the downtime.

        Only pages whose bits are set are copied last: a page written and not logged makes the
        memories differ, which raises MemoryDiffersError before the destination sees any of it.
        """
        guest = self.guest
        bases = guest.stop_rings()
        if bases != [vring.queue.base for vring in guest.vrings]:
            raise ChainsLostError(f"bases {bases}")
        state = self.source.save_state() if self._both(ProtocolFeature.DEVICE_STATE) else None
        self._copy(self.log.logged() | guest.memory.take_written())
        if pages := differing_pages(guest.memory, self.memory):
            raise MemoryDiffersError(f"pages {pages}")
        if state is not None:
            self.destination.load_state(state)
        guest.move_to(self.memory)
        guest.run_on(self.destination, bases)

    def cancel(self) -> None:
        """Give up before `switch`: the guest stays where it is."""
        self.source.stop_logging(self.guest.vrings)
        self.destination.close()
        self.memory.close()
        self.log.close()

    def release_source(self) -> None:
        """End the source after `switch`, as the source's QEMU does when the guest has left."""
        self.source.close()
        self.log.close()

    def announce(
        self, sleep: Callable[[float], object], rounds: Sequence[float] = ANNOUNCE_ROUNDS
    ) -> None:
        """Announce the guest's new place to the network, in rounds; `sleep` takes seconds.

        For a guest that acknowledged GUEST_ANNOUNCE QEMU sends no SEND_RARP: the guest announces
        itself.
        """
        for delay in rounds:
            sleep(delay)
            if self.guest.config.has(Feature.GUEST_ANNOUNCE):
                self.guest.announce()
            else:
                self.destination.send_rarp(self.guest.config.mac)

    def _both(self, feature: ProtocolFeature) -> bool:
        return self.source.has(feature) and self.destination.has(feature)

    def _copy(self, pages: Iterable[int]) -> int:
        present = self._pages.intersection(pages)
        for page in present:
            at = page * PAGE_SIZE
            self.memory.view(at, PAGE_SIZE)[:] = self.guest.memory.view(at, PAGE_SIZE)
        return len(present)


def differing_pages(one: GuestMemory, other: GuestMemory) -> list[int]:
    """The numbers of the pages that differ between two memories of the same shape."""
    pages: list[int] = []
    for region in one.regions:
        contents = [
            np.frombuffer(memory.view(region.guest_address, region.size), np.uint64)
            for memory in (one, other)
        ]
        differs = (contents[0] != contents[1]).reshape(-1, PAGE_SIZE // 8).any(axis=1)
        pages += (np.flatnonzero(differs) + region.guest_address // PAGE_SIZE).tolist()
    return pages


def unlogged_pages(
    before: dict[int, bytes], after: dict[int, bytes], logged: Iterable[int]
) -> list[int]:
    """Pages that changed between two snapshots and are not in `logged`: there must be none.

    `logged` holds the pages of the log and the pages that the guest wrote itself.
    """
    changed = {page for page, content in before.items() if after[page] != content}
    return sorted(changed.difference(logged))
