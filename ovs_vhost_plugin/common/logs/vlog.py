# SPDX-License-Identifier: Apache-2.0
"""The log of a module, as in every Open vSwitch daemon; what repeats itself is cut short.

Open vSwitch's Python bindings have no rate limits, its daemons in C do (VLOG_RATE_LIMIT). Whoever
can make a daemon log, be it a guest, a front-end or a writer of the database, could fill its disk.
"""

from __future__ import annotations

import sys
import time
from typing import Any, NamedTuple

import ovs.vlog

from ovs_vhost_plugin.common.logs.rates import LogKind, LogRates


class LogPlace(NamedTuple):
    """Where in the code a line comes from, with its log and its level."""

    log: Any
    level: str
    file: str
    number: int


_rates: LogRates[LogPlace] = LogRates()


class Vlog:
    """A module's log. To be made before the bindings' log is set up, as each of theirs.

    A line begins with the name of the port that it is about, and a colon.
    """

    def __init__(self, name: str) -> None:
        self._log = ovs.vlog.Vlog(name)

    def emer(self, line: str) -> None:
        """Log why the daemon ends."""
        self._log.emer(line)

    def err(self, line: str) -> None:
        """Log what keeps the daemon from its work."""
        self._rated("err", line)

    def warn(self, line: str) -> None:
        """Log what somebody should mend."""
        self._rated("warn", line)

    def info(self, line: str) -> None:
        """Log a change of state."""
        self._rated("info", line)

    def dbg(self, line: str) -> None:
        """Log what repeats a line, for who looks for it (`-vdbg`, `vlog/set`)."""
        self._rated("dbg", line)

    def _rated(self, level: str, line: str) -> None:
        if not getattr(self._log, f"{level}_is_enabled")():
            return
        caller = sys._getframe(2)
        place = LogPlace(self._log, level, caller.f_code.co_filename, caller.f_lineno)
        for one in _rates.take(LogKind.of(place, line), line, time.monotonic()):
            getattr(self._log, level)(one)

    @staticmethod
    def run(now: float) -> None:
        """Log how many lines of all modules were dropped, of what has become quiet."""
        for kind, line in _rates.overdue(now):
            getattr(kind.place.log, kind.place.level)(line)

    @staticmethod
    def wait(poller: Any) -> None:
        """Register when `run` has something to do."""
        if (at := _rates.get_timer()) is not None:
            poller.timer_wait_until(at * 1e3)
