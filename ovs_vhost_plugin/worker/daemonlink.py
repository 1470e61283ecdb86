# SPDX-License-Identifier: Apache-2.0
"""The worker's side of the control protocol: what the daemon is told, and how often at most.

State is told as whole snapshots, so a daemon that comes later needs nothing that was said before.
A daemon connects and sends its hello, with the pipe for what it is told and the file for this
worker's vitals: then it is told.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from typing import Any

from ovs_vhost_plugin import __version__
from ovs_vhost_plugin.ipc.channel import Channel, ChannelClosed, WorkerSpec
from ovs_vhost_plugin.ipc.reportpipe import ReportWriter
from ovs_vhost_plugin.worker.limiter import Changes, Limiter

# A hostile guest must not keep the daemon, which serves all ports, busy.
_STATES_PER_SECOND, _STATES_AT_ONCE = 2.0, 20
_RARPS_PER_SECOND, _RARPS_AT_ONCE = 10.0, 20
_HOLDS_PER_SECOND, _HOLDS_AT_ONCE = 5.0, 20
_STARTS_PER_SECOND, _STARTS_AT_ONCE = 10.0, 40
_STATIONS_PER_SECOND, _STATIONS_AT_ONCE = 5.0, 20

Handler = Callable[[dict[str, Any], list[int]], None]


class DaemonLink:
    """At most one daemon, the newest to connect."""

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        spec: Callable[[], WorkerSpec],
        snapshot: Callable[[], dict[str, Any]],
        addresses: Callable[[], list[dict[str, Any]]],
        holding: Callable[[], dict[str, Any] | None],
        handle: Handler,
        adopt_vitals: Callable[[int, int], object],
        on_daemon: Callable[[], object] = lambda: None,
    ) -> None:
        """`adopt_vitals` takes the fds of the file and the alarm for this worker's vitals.

        `on_daemon` is called when a daemon has come that knows nothing yet.
        """
        self._listener = listener
        self._selector = selector
        self._spec = spec
        self._snapshot = snapshot
        self._addresses = addresses
        self._holding = holding
        self._handle = handle
        self._adopt_vitals = adopt_vitals
        self._on_daemon = on_daemon
        self._channel: Channel | None = None
        self._reports: ReportWriter | None = None  # from the daemon's hello on
        nothing: dict[str, Any] = {}
        self._states = Changes(
            *(_STATES_PER_SECOND, _STATES_AT_ONCE),
            nothing,
            lambda state: self.send({"event": "state", "state": state}),
        )
        self._rarps: Limiter[dict[str, Any]] = Limiter(_RARPS_PER_SECOND, _RARPS_AT_ONCE)
        self._holds = Changes(_HOLDS_PER_SECOND, _HOLDS_AT_ONCE, nothing, self.send)
        self._starts: Limiter[dict[str, Any]] = Limiter(_STARTS_PER_SECOND, _STARTS_AT_ONCE)
        nobody: list[dict[str, Any]] = []
        self._stations = Changes(
            *(_STATIONS_PER_SECOND, _STATIONS_AT_ONCE),
            nobody,
            lambda stations: self.send({"event": "addresses", "addresses": stations}),
        )
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, self._accept)

    @property
    def connected(self) -> bool:
        """Whether a daemon listens."""
        return self._reports is not None

    def rarp(self, mac: bytes, at: float) -> bool:
        """Pass SEND_RARP on; of a flood, the latest. False when no daemon is there for it.

        At once: what the front-end sends after it starts the rings, which takes its time.
        """
        if not self.connected:
            return False
        self._rarps.offer({"event": "rarp", "mac": mac.hex(":"), "at": at})
        self._pass(self._rarps, at)
        return self.connected

    def started(self, event: dict[str, Any], now: float) -> None:
        """Tell that rings began to run; of a front-end that starts them without end, the latest."""
        self._starts.offer(event)
        self._pass(self._starts, now)

    def send(self, event: dict[str, Any]) -> bool:
        """Send one event now; False when no daemon is there for it."""
        if self._reports is None:
            return False
        try:
            self._reports.send(event)
        except ChannelClosed:
            self._drop()
            return False
        self._watch()
        return True

    def tell_addresses(self, now: float) -> None:
        """Tell what the guest uses if that has changed."""
        self._stations.tell(self._addresses(), now)

    def run(self, now: float) -> None:
        """Tell what has changed, as far as the limits allow."""
        if self._reports is None:
            return
        self._states.tell(self._snapshot(), now)
        self.tell_addresses(now)
        self._holds.tell(self._holding() or {}, now)
        self._pass(self._rarps, now)
        self._pass(self._starts, now)

    def due(self, now: float) -> float | None:
        """Seconds until `run` has something to tell."""
        if self._reports is None:
            return None
        limiters = (self._states, self._rarps, self._holds, self._starts, self._stations)
        waits = [w for w in (limiter.due(now) for limiter in limiters) if w is not None]
        return min(waits, default=None)

    def _pass(self, limiter: Limiter[dict[str, Any]], now: float) -> None:
        """Send what a limiter lets through."""
        event = limiter.take(now)
        if event is not None:
            self.send(event)

    def _accept(self, _now: float) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        self._drop()
        self._channel = Channel(sock, max_fds=3)
        self._selector.register(self._channel, selectors.EVENT_READ, self._receive)

    def _receive(self, now: float) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            for command, fds in channel.receive():
                if command.get("op") == "hello" and len(fds) == 3 and self._reports is None:
                    self._greet(*fds, now=now)
                else:
                    self._handle(command, fds)
        except ChannelClosed:
            self._drop()

    def _greet(self, reports: int, black_box: int, alarm: int, *, now: float) -> None:
        self._adopt_vitals(black_box, alarm)
        self._reports = ReportWriter(reports)
        hello = {"event": "hello", "version": __version__, "spec": self._spec().to_json()}
        if self.send(hello):
            for told in (self._states, self._holds, self._stations):
                told.forget()
            self._on_daemon()
            self.run(now)

    def _watch(self) -> None:
        """Have reports that wait sent when the daemon has read."""
        reports = self._reports
        if reports is None:
            return
        watched = reports.fileno() in self._selector.get_map()
        if reports.wants_write and not watched:
            self._selector.register(reports, selectors.EVENT_WRITE, self._flush)
        elif watched and not reports.wants_write:
            self._selector.unregister(reports)

    def _flush(self, _now: float) -> None:
        assert self._reports is not None
        try:
            self._reports.flush()
        except ChannelClosed:
            self._drop()
        else:
            self._watch()

    def _drop(self) -> None:
        reports, self._reports = self._reports, None
        if reports is not None:
            if reports.fileno() in self._selector.get_map():
                self._selector.unregister(reports)
            reports.close()
        if self._channel is not None:
            self._selector.unregister(self._channel)
            self._channel.close()
            self._channel = None
