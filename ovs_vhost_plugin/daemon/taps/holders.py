# SPDX-License-Identifier: Apache-2.0
"""Who else has queues of a port's tap: a local user of before, or what a worker left behind.

Such a queue gets the VM's frames and sends as the VM. The tap's owner keeps others from attaching;
who is attached already stays until the tap is made anew, which is then for the caller to do.
"""

from collections import Counter
from typing import Protocol

import ovs.vlog

from ovs_vhost_plugin.tap import TapError, TapErrorName

vlog = ovs.vlog.Vlog("vhost_holders")


class Attached(Protocol):
    """The calls of tap/taps.py that are used here."""

    def claim(self, name: str) -> bool:
        """Give a tap that is in use to root; return whether it was not root's. Raises TapError."""

    def queues(self, name: str) -> int:
        """How many queues are open; raises TapError."""


class Holders:
    """Looks at taps when workers come, by the names of their ports; counts what it finds."""

    def __init__(self, taps: Attached, counters: Counter[str]) -> None:
        self._taps = taps
        self._counters = counters
        self._shared: set[str] = set()  # in use, and until now not root's

    def claim(self, name: str) -> None:
        """Take a tap, whose worker is adopted, from whoever else it belonged to."""
        try:
            if self._taps.claim(name):
                self._shared.add(name)
                vlog.warn(f"{name}: its tap did not belong to root; it does now")
        except TapError as error:
            vlog.warn(f"{name}: {error}")

    def beside(self, name: str, queues: int) -> bool:
        """Whether others are attached to a tap that was claimed, beside a worker's `queues`."""
        if name not in self._shared:
            return False
        self._shared.discard(name)
        return self._more_than(name, queues)

    def without(self, name: str) -> bool:
        """Whether others are attached to the tap of a port without a worker; raises TapError."""
        self._shared.discard(name)
        return self._more_than(name, 0)

    def forget_all(self) -> None:
        """All is another daemon's now."""
        self._shared.clear()

    def _more_than(self, name: str, queues: int) -> bool:
        if self._taps.queues(name) <= queues:
            return False
        vlog.warn(f"{name}: {TapErrorName.HELD}: some other process has a queue of its tap open")
        self._counters[TapErrorName.HELD] += 1
        return True
