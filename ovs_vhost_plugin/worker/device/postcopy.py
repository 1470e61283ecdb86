# SPDX-License-Identifier: Apache-2.0
"""A guest that has moved here before its memory: a thread that touches a missing page waits.

Only the queue pairs' threads touch guest memory, so only they wait, and the front-end's messages
are served meanwhile. A message that stops a ring waits for the ring's loop, and the loop waits for
the page. A front-end that died, or is not honest, never brings the page. Then the loop cannot go
on: any other bytes in the page's place would become the guest's memory, or a frame. So the worker
ends, which costs this port alone, and another worker serves the port.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.memory.table import MemoryTable
from ovs_vhost_plugin.vhost.memory.userfault import Userfault
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.device.resources import RingResources

_PATIENCE = 30.0
"""Seconds that a stopping ring waits for a page; QEMU waits for the answer all that time."""
_PATIENCE_GONE = 1.0
"""The same after the front-end has gone, for a page that was under way."""


def end_worker(why: str) -> None:
    """End this process at once, without waiting for its threads. The daemon reads the last line.

    The name is in docs/hostile-inputs.md.
    """
    print(f"postcopy-page-missing: {why}", file=sys.stderr, flush=True)
    os._exit(os.EX_PROTOCOL)


class Source(Protocol):
    """Makes userfaultfds: `UserfaultDevice`, or a test's."""

    def make(self) -> Userfault:
        """A new userfaultfd. Raises OSError."""

    def close(self) -> None:
        """Close the device, which is needed no more."""

    def renew(self) -> None:
        """Get the device again, for the next front-end."""


class Postcopy:
    """The userfaultfd of one session, and the memory registered with it."""

    def __init__(
        self,
        device: Source | None,
        pairs: Sequence[QueuePair],
        resources: RingResources,
        give_up: Callable[[str], object] = end_worker,
        alive: Callable[[], object] = lambda: None,
    ) -> None:
        """`device` makes userfaultfds; without it PAGEFAULT is not offered.

        While a ring waits for a page, `alive` is called, to show that this process does not hang.
        When the wait is over in vain, `give_up` is called with the reason.
        """
        self._device = device
        self._pairs = pairs
        self._resources = resources
        self._give_up = give_up
        self._alive = alive
        self._userfault: Userfault | None = None

    def advise(self) -> int:
        """The fd of a new userfaultfd, unless memory is registered with one. Raises PeerError.

        QEMU 7.2 asks once for each queue pair, the first pair last, and takes a fault that it reads
        from an fd for a fault of that pair. The first pair is also the first that QEMU tells of
        memory: if another pair's handler read a fault before that, the fault would be lost and the
        page never requested. So the last userfaultfd counts.
        """
        assert self._device is not None
        if self._userfault is None or not self._resources.pages_missing:
            self._close()
            try:
                self._userfault = self._device.make()
            except OSError as error:
                raise PeerError(PeerErrorName.POSTCOPY_UNAVAILABLE, str(error)) from error
        return self._userfault.fd

    def listen(self) -> None:
        """Expect memory whose pages are missing. Raises PeerError."""
        if self._resources.memory is not None and self._resources.memory.views:
            # The front-end would not know the address of a fault.
            raise PeerError(PeerErrorName.POSTCOPY_WITH_MEMORY)
        self._resources.pages_missing = True
        self._wait(_PATIENCE, "a ring that is to stop has waited for it")

    def catch(self, table: MemoryTable) -> None:
        """Register `table`: a thread that touches a missing page waits for it. Raises PeerError."""
        if not self._resources.pages_missing:
            return
        assert self._userfault is not None
        for view in table.views:
            try:
                self._userfault.catch(view)
            except OSError as error:
                raise PeerError(PeerErrorName.POSTCOPY_MEMORY_KIND, str(error)) from error

    def end(self) -> None:
        """End postcopy: all pages have come."""
        memory = self._resources.memory
        if self._userfault is not None and memory is not None:
            for view in memory.views:
                self._userfault.release(view)
        self._finish()

    def leave(self) -> None:
        """Wait for no more pages than are under way: the front-end has gone."""
        if self._resources.pages_missing:
            self._wait(_PATIENCE_GONE, "the front-end has gone")

    def forget(self) -> None:
        """Drop the userfaultfd: all loops have been stopped."""
        self._finish()
        if self._device is not None:
            self._device.renew()

    def _wait(self, patience: float, why: str) -> None:
        """Let a stop wait `patience` seconds for a loop; then give up because of `why`."""

        def stuck(seconds: float) -> None:
            self._alive()
            if seconds >= patience:
                self._give_up(f"{why}, for {seconds:.1f} s")

        for pair in self._pairs:
            pair.on_stuck = stuck

    def _finish(self) -> None:
        self._resources.pages_missing = False
        for pair in self._pairs:
            pair.on_stuck = lambda _seconds: None
        if self._userfault is not None and self._device is not None:
            self._device.close()
        self._close()

    def _close(self) -> None:
        userfault, self._userfault = self._userfault, None
        if userfault is not None:
            userfault.close()
