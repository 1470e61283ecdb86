# SPDX-License-Identifier: Apache-2.0
"""/dev/userfaultfd in a worker: there only while its front-end may need it, and the row allows it.

A userfaultfd reaches all memory of the process that made it, and whoever may open the device may
make one. So a worker cannot open it, and the daemon gives it one that is open, for a port whose row
says so, on request: before a front-end is offered postcopy, and again for the next front-end after
one that has used it. It is closed when the migration has ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ovs_vhost_plugin.ipc.reports import AskUserfaultfd
from ovs_vhost_plugin.ipc.spec import PortSettings
from ovs_vhost_plugin.vhost.memory.userfault import DEVICE, Userfault
from ovs_vhost_plugin.worker.outbox import Outbox

_APART = 1.5
"""Seconds between two requests: the daemon answers no more than one a second."""
_PATIENCE = 3.0
"""Seconds that a front-end is kept waiting for the answer, which it is offered postcopy by."""


class UserfaultDevice:
    """The device, once the daemon has given it to a port whose settings ask for it."""

    def __init__(self, outbox: Outbox, clock: Callable[[], float], settings: PortSettings) -> None:
        self._outbox = outbox
        self._clock = clock
        self._wanted = False
        self._fd = -1
        self._expected = False
        self._next_request = self._patient_until = 0.0
        self._refused = ""
        self.configure(settings)

    @property
    def there(self) -> bool:
        """Whether a userfaultfd can be made."""
        return self._fd >= 0

    @property
    def why_not(self) -> str:
        """Why the device is not there, for people to read."""
        if not self._wanted:
            return "external_ids:vhost-user-postcopy is not true"
        if self._expected:
            return f"the daemon has not given {DEVICE} yet"
        return self._refused or "it has ended; the next front-end is offered it again"

    def configure(self, settings: PortSettings) -> None:
        """Follow the row; what was made by the device stays as it is."""
        if settings.postcopy != self._wanted:
            self._wanted = settings.postcopy
            self.close()
            self.renew()

    def renew(self) -> None:
        """A front-end may come that needs it."""
        if self._wanted and not self.there and not self._expected:
            self._expected = True
            self._patient_until = self._clock() + _PATIENCE

    def handle_timer(self, now: float) -> None:
        """Ask for it when it is time to."""
        if self._expected and now >= self._next_request and self._outbox.tell(AskUserfaultfd()):
            self._next_request = now + _APART

    def get_timer(self) -> float | None:
        """When it is time to ask; None while there is nothing to ask for, or nobody to ask."""
        return self._next_request if self._expected and self._outbox.is_open else None

    def awaited_until(self) -> float:
        """Until when a front-end is better connected to later; 0: now."""
        return self._patient_until if self._expected else 0.0

    def take(self, fd: int) -> None:
        """Have it, an fd that it takes."""
        self.close()
        if self._wanted:
            self._fd, self._refused = fd, ""
        else:
            os.close(fd)

    def refused(self, why: str) -> None:
        """The daemon has none for us."""
        self._expected = False
        self._refused = why

    def make(self) -> Userfault:
        """A userfaultfd of this process. Raises OSError."""
        return Userfault(self._fd)

    def close(self) -> None:
        """Have it no more."""
        self._expected = False
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
