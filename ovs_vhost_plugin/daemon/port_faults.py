# SPDX-License-Identifier: Apache-2.0
"""The last fault of each port, and when the port is tried again. Time is an argument."""

from collections import Counter

from ovs_vhost_plugin.common.backoff import Backoff
from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.daemon.reconcile import FIRST_TRY

vlog = Vlog("vhost_ports")


class PortFaults:
    """Faults by port, each a name, a colon and a text.

    A fault is an obstacle until the port's worker runs, or a worker's crash until a front-end is
    connected again.

    counters  the number of faults by name, over all ports
    """

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self._last: dict[str, str] = {}
        self._crashed: set[str] = set()
        self._backoffs: dict[str, Backoff] = {}

    def of(self, port: str) -> str:
        """The port's last fault; "" if there is none."""
        return self._last.get(port, "")

    def note(
        self, port: str, fault: str, now: float, *, lived: float = 0.0, crash: bool = False
    ) -> None:
        """Record a fault; the port is tried again later, ever more slowly.

        `lived`: seconds for which the port's worker ran before.
        """
        (self._crashed.add if crash else self._crashed.discard)(port)
        self._backoffs[port] = self._backoffs.get(port, FIRST_TRY).failed(now, lived)
        if self._last.get(port) != fault:
            vlog.warn(f"{port}: {fault}")
        self._last[port] = fault
        self.counters[fault.partition(":")[0]] += 1

    def retry_at(self, port: str) -> float:
        """From when the port may be tried again."""
        return self._backoffs.get(port, FIRST_TRY).retry_at

    def worker_came(self, port: str) -> None:
        """A worker runs: there is no obstacle any more. A crash is told until a guest is here."""
        if port not in self._crashed:
            self._last.pop(port, None)

    def guest_came(self, port: str) -> None:
        """A front-end is connected: all is well."""
        self._last.pop(port, None)

    def forget(self, port: str) -> None:
        """Forget a port that is gone."""
        self._last.pop(port, None)
        self._backoffs.pop(port, None)

    def clear(self) -> None:
        """Forget all ports; what was counted stays."""
        self._last.clear()
        self._backoffs.clear()
