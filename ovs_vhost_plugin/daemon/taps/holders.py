# SPDX-License-Identifier: Apache-2.0
"""Finds others' queues of a port's tap: a local user's, or remains of a worker.

Such a queue gets the VM's frames and sends as the VM. The tap's owner keeps others from attaching.
A process that is attached already stays until the tap is made again, which is the caller's task.
"""

from collections import Counter
from typing import Protocol

from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.tap import TapError, TapErrorName

vlog = Vlog("vhost_holders")


class Attached(Protocol):
    """The calls of tap/taps.py that are used here."""

    def claim(self, name: str) -> bool:
        """Give a tap that is in use to root; return whether it was not root's. Raises TapError."""

    def queues(self, name: str) -> int:
        """The number of open queues; raises TapError."""


class Holders:
    """Checks taps when workers come, by the names of their ports; counts others' queues."""

    def __init__(self, taps: Attached, counters: Counter[str]) -> None:
        self._taps = taps
        self._counters = counters
        self._shared: set[str] = set()  # taps in use that were not root's until now

    def claim(self, name: str) -> None:
        """Make the tap of an adopted worker root's, whoever owned it before."""
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
        """Forget all taps: another daemon has them now."""
        self._shared.clear()

    def _more_than(self, name: str, queues: int) -> bool:
        if self._taps.queues(name) <= queues:
            return False
        vlog.warn(f"{name}: {TapErrorName.HELD}: some other process has a queue of its tap open")
        self._counters[TapErrorName.HELD] += 1
        return True
