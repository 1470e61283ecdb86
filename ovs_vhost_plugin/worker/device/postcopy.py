# SPDX-License-Identifier: Apache-2.0
"""A guest that has moved here before its memory: whoever touches a missing page waits for it.

Only the queue pairs' threads touch guest memory, so only they wait, and the front-end's messages
are served meanwhile. A message that stops a ring waits for its loop, and that for the page, which a
front-end that died, or is none, never brings. There is no way then to go on: whatever else the loop
found in the page's place would become the guest's memory, or a frame. So the worker ends, which
costs this port alone, and another one serves the port.
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
from ovs_vhost_plugin.worker.device.resources import Basis

_PATIENCE = 30.0
"""Seconds that a ring which is to stop waits for a page: QEMU waits for the answer all the time."""
_PATIENCE_GONE = 1.0
"""The same after the front-end has gone, for a page that was under way."""


def end_worker(why: str) -> None:
    """End this process at once: its threads cannot be waited for. The daemon reads the last line.

    The name is in docs/hostile-inputs.md.
    """
    print(f"postcopy-page-missing: {why}", file=sys.stderr, flush=True)
    os._exit(os.EX_PROTOCOL)


class Source(Protocol):
    """What userfaultfds are made by: `UserfaultDevice`."""

    def make(self) -> Userfault:
        """A new one. Raises OSError."""

    def close(self) -> None:
        """It is needed no more."""

    def renew(self) -> None:
        """The next front-end may need it."""


class Postcopy:
    """The userfaultfd of one session, and what is registered with it."""

    def __init__(
        self,
        device: Source | None,
        pairs: Sequence[QueuePair],
        basis: Basis,
        give_up: Callable[[str], object] = end_worker,
        alive: Callable[[], object] = lambda: None,
    ) -> None:
        """`device` makes userfaultfds; without it PAGEFAULT is not offered.

        `give_up` is told why a page that a ring waits for is not waited for any longer, and until
        then `alive` is called: whoever waits so long does not hang.
        """
        self._device = device
        self._pairs = tuple(pairs)
        self._basis = basis
        self._give_up = give_up
        self._alive = alive
        self._userfault: Userfault | None = None

    def advise(self) -> int:
        """The fd of a new userfaultfd, unless memory is registered with one. Raises PeerError.

        QEMU 7.2 asks once for each queue pair, the first one last, and takes what it reads from an
        fd for that pair's. The first pair is the first that it tells of memory: a fault that
        another one's handler read before that would be lost, and the page never requested. So the
        last one counts.
        """
        assert self._device is not None
        if self._userfault is None or not self._basis.pages_missing:
            self._close()
            try:
                self._userfault = self._device.make()
            except OSError as error:
                raise PeerError(PeerErrorName.POSTCOPY_UNAVAILABLE, str(error)) from error
        return self._userfault.fd

    def listen(self) -> None:
        """Expect memory whose pages are missing. Raises PeerError."""
        if self._basis.memory is not None and self._basis.memory.views:
            # The front-end would not know the address of a fault.
            raise PeerError(PeerErrorName.POSTCOPY_WITH_MEMORY)
        self._basis.pages_missing = True
        self._wait(_PATIENCE, "a ring that is to stop has waited for it")

    def catch(self, table: MemoryTable) -> None:
        """Have whoever touches a missing page of `table` wait for it. Raises PeerError."""
        if not self._basis.pages_missing:
            return
        assert self._userfault is not None
        for view in table.views:
            try:
                self._userfault.catch(view)
            except OSError as error:
                raise PeerError(PeerErrorName.POSTCOPY_MEMORY_KIND, str(error)) from error

    def end(self) -> None:
        """All pages have come."""
        memory = self._basis.memory
        if self._userfault is not None and memory is not None:
            for view in memory.views:
                self._userfault.release(view)
        self._finish()

    def leave(self) -> None:
        """The front-end has gone."""
        if self._basis.pages_missing:
            self._wait(_PATIENCE_GONE, "the front-end has gone")

    def forget(self) -> None:
        """All loops have been stopped."""
        self._finish()
        if self._device is not None:
            self._device.renew()

    def _wait(self, patience: float, why: str) -> None:
        """Have loops that do not stop waited for, so many seconds."""

        def stuck(seconds: float) -> None:
            self._alive()
            if seconds >= patience:
                self._give_up(f"{why}, for {seconds:.1f} s")

        for pair in self._pairs:
            pair.on_stuck = stuck

    def _finish(self) -> None:
        self._basis.pages_missing = False
        for pair in self._pairs:
            pair.on_stuck = lambda _seconds: None
        if self._userfault is not None and self._device is not None:
            self._device.close()
        self._close()

    def _close(self) -> None:
        userfault, self._userfault = self._userfault, None
        if userfault is not None:
            userfault.close()
