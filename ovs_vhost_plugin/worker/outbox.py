# SPDX-License-Identifier: Apache-2.0
"""The reports of the worker's parts on their way to the daemon, each kind within its rate.

Each part has the outbox from its birth on. A daemon's pipe is opened under it later, and another
pipe when another daemon comes (`daemonlink.py`). A report is an event or a state. An event is sent
only to a daemon that is there. A state is sent anew to each daemon that comes.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable

from ovs_vhost_plugin.common.ratelimit import TokenBucket
from ovs_vhost_plugin.ipc import reports
from ovs_vhost_plugin.ipc.channel import ChannelClosed
from ovs_vhost_plugin.ipc.reportpipe import ReportWriter
from ovs_vhost_plugin.ipc.reports import RATES, Report, WorkerHello


class Outbox:
    """Reports on their way to at most one daemon.

    Of reports that come faster than half of the rate that the daemon takes, the latest of each kind
    waits: a hostile guest must not keep the daemon, which serves all ports, busy.
    """

    def __init__(self, selector: selectors.BaseSelector, clock: Callable[[], float]) -> None:
        self._selector = selector
        self._clock = clock
        self._writer: ReportWriter | None = None
        self._buckets = {
            kind: TokenBucket(rate / 2, burst // 2, clock())
            for kind, (rate, burst) in RATES.items()
        }
        self._events: dict[type[Report], Report] = {}  # events that wait
        self._states: dict[type[Report], Report] = {}
        self._told: dict[type[Report], Report] = {}  # states that the daemon knows

    @property
    def is_open(self) -> bool:
        """Whether a daemon listens."""
        return self._writer is not None

    @property
    def idle(self) -> bool:
        """Whether no event waits to be reported, and the daemon reads."""
        return not self._events and (self._writer is None or not self._writer.wants_write)

    def open(self, fd: int, hello: WorkerHello) -> None:
        """Report to a daemon that has come, by the pipe `fd`, which this takes over."""
        self.close()
        self._writer = ReportWriter(fd)
        if self._write(hello):
            self.handle_timer(self._clock())

    def close(self) -> None:
        """Forget the daemon, which has gone, and its knowledge."""
        writer, self._writer = self._writer, None
        self._told.clear()
        self._events.clear()
        if writer is not None:
            if writer.fileno() in self._selector.get_map():
                self._selector.unregister(writer)
            writer.close()

    def tell(self, event: Report) -> bool:
        """Report an event, now or as soon as its rate allows. False: there is no daemon."""
        if self._writer is None:
            return False
        if type(event) not in self._buckets:
            return self._write(event)
        self._events[type(event)] = event
        self.handle_timer(self._clock())
        return self.is_open

    def keep(self, state: Report) -> None:
        """Report a new state, now or as soon as its rate allows."""
        self._states[type(state)] = state
        self.handle_timer(self._clock())

    def forget(self, kind: type[Report]) -> None:
        """Drop a state that has ended."""
        self._states.pop(kind, None)
        self._told.pop(kind, None)

    def get_timer(self) -> float | None:
        """The time at which `handle_timer` has reports to send; None: there are none to send."""
        if self._writer is None:
            return None
        now = self._clock()
        return min((self._buckets[kind].ready_at(now) for kind in self._waiting()), default=None)

    def handle_timer(self, now: float) -> None:
        """Send the reports that wait, as far as the rates allow."""
        for kind, report in self._waiting().items():
            if self._writer is None:
                return
            if self._buckets[kind].take(now):
                self._events.pop(kind, None)
                if self._write(report) and kind in self._states:
                    self._told[kind] = report

    def _waiting(self) -> dict[type[Report], Report]:
        new = {k: state for k, state in self._states.items() if self._told.get(k) != state}
        return {**self._events, **new}

    def _write(self, report: Report) -> bool:
        assert self._writer is not None
        try:
            self._writer.send(reports.encode(report))
        except ChannelClosed:
            self.close()
            return False
        self._watch(self._writer)
        return True

    def _watch(self, writer: ReportWriter) -> None:
        """Wait for the pipe to take more, as long as reports wait for that."""
        watched = writer.fileno() in self._selector.get_map()
        if writer.wants_write and not watched:
            self._selector.register(writer, selectors.EVENT_WRITE, self._flush)
        elif watched and not writer.wants_write:
            self._selector.unregister(writer)

    def _flush(self, _now: float) -> None:
        assert self._writer is not None
        try:
            self._writer.flush()
        except ChannelClosed:
            self.close()
        else:
            self._watch(self._writer)
