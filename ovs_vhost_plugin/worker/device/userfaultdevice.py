# SPDX-License-Identifier: Apache-2.0
"""/dev/userfaultfd in a worker: open only while the front-end may need it and the row allows it.

A userfaultfd reaches all memory of the process that made it, and a process that may open the device
may make one. So a worker cannot open the device. The daemon sends the worker an open fd on request,
for a port whose row says so: before a front-end is offered postcopy, and again for the next
front-end after one that has used it. The fd is closed when the migration has ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ovs_vhost_plugin.ipc.reports import AskUserfaultfd
from ovs_vhost_plugin.ipc.spec import PortSettings
from ovs_vhost_plugin.vhost.memory.userfault import DEVICE, Userfault
from ovs_vhost_plugin.worker.outbox import Outbox

_APART = 1.5
"""Seconds between two requests; the daemon answers at most one a second."""
_PATIENCE = 3.0
"""Seconds that a front-end waits for the answer, which decides whether postcopy is offered."""


class UserfaultDevice:
    """The device, once the daemon has sent it to a port whose settings ask for it."""

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
        """The reason why the device is not there, for people to read."""
        if not self._wanted:
            return "external_ids:vhost-user-postcopy is not true"
        if self._expected:
            return f"the daemon has not given {DEVICE} yet"
        return self._refused or "it has ended; the next front-end is offered it again"

    def configure(self, settings: PortSettings) -> None:
        """Apply the row's setting. A userfaultfd made before stays as it is."""
        if settings.postcopy != self._wanted:
            self._wanted = settings.postcopy
            self.close()
            self.renew()

    def renew(self) -> None:
        """Ask for the device again: the next front-end may need it."""
        if self._wanted and not self.there and not self._expected:
            self._expected = True
            self._patient_until = self._clock() + _PATIENCE

    def handle_timer(self, now: float) -> None:
        """Ask for the device when it is time."""
        if self._expected and now >= self._next_request and self._outbox.tell(AskUserfaultfd()):
            self._next_request = now + _APART

    def get_timer(self) -> float | None:
        """The time to ask; None while there is nothing to ask for, or nobody to ask."""
        return self._next_request if self._expected and self._outbox.is_open else None

    def awaited_until(self) -> float:
        """The time until which a front-end should wait for the answer; 0: it need not wait."""
        return self._patient_until if self._expected else 0.0

    def take(self, fd: int) -> None:
        """Store the device's fd, which is then this object's to close."""
        self.close()
        if self._wanted:
            self._fd, self._refused = fd, ""
        else:
            os.close(fd)

    def refused(self, why: str) -> None:
        """Record that the daemon does not give the device, and why."""
        self._expected = False
        self._refused = why

    def make(self) -> Userfault:
        """A userfaultfd of this process. Raises OSError."""
        return Userfault(self._fd)

    def close(self) -> None:
        """Close the device."""
        self._expected = False
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
