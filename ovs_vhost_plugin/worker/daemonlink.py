# SPDX-License-Identifier: Apache-2.0
"""The worker's side of the control protocol: what the daemon is told, and how often at most.

State is told as whole snapshots, so a daemon that comes later needs nothing that was said before.
"""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable, Sequence
from typing import Any

from ovs_vhost_plugin import __version__
from ovs_vhost_plugin.control import Channel, ChannelClosed, WorkerSpec
from ovs_vhost_plugin.worker.limiter import Limiter

# A hostile guest must not keep the daemon, which serves all ports, busy.
_STATES_PER_SECOND, _STATES_AT_ONCE = 2.0, 20
_RARPS_PER_SECOND, _RARPS_AT_ONCE = 10.0, 20
_HOLDS_PER_SECOND, _HOLDS_AT_ONCE = 5.0, 20

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
    ) -> None:
        self._listener = listener
        self._selector = selector
        self._spec = spec
        self._snapshot = snapshot
        self._addresses = addresses
        self._holding = holding
        self._handle = handle
        self._channel: Channel | None = None
        self._told: dict[str, Any] | None = None
        self._told_addresses: list[dict[str, Any]] = []
        self._states: Limiter[dict[str, Any]] = Limiter(_STATES_PER_SECOND, _STATES_AT_ONCE)
        self._rarps: Limiter[dict[str, Any]] = Limiter(_RARPS_PER_SECOND, _RARPS_AT_ONCE)
        self._told_hold: dict[str, Any] | None = None
        self._holds: Limiter[dict[str, Any]] = Limiter(_HOLDS_PER_SECOND, _HOLDS_AT_ONCE)
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, self._accept)

    @property
    def connected(self) -> bool:
        """Whether a daemon listens."""
        return self._channel is not None

    def rarp(self, mac: bytes, at: float) -> None:
        """Pass SEND_RARP on; of a flood, the latest.

        At once: what the front-end sends after it starts the rings, which takes its time.
        """
        self._rarps.offer({"event": "rarp", "mac": mac.hex(":"), "at": at})
        self._pass_rarp(at)

    def send(self, event: dict[str, Any], fds: Sequence[int] = ()) -> bool:
        """Send one event now; False when no daemon is there for it."""
        if self._channel is None:
            return False
        try:
            self._channel.send(event, fds)
        except ChannelClosed:
            self._drop()
            return False
        self._watch()
        return True

    def run(self, now: float) -> None:
        """Tell what has changed, as far as the limits allow."""
        if self._channel is None:
            return
        state = self._snapshot()
        if state != self._told:
            self._states.offer(state)
        due = self._states.take(now)
        if due is not None and self.send({"event": "state", "state": due}):
            self._told = due
        addresses = self._addresses()
        if addresses != self._told_addresses:
            self._told_addresses = addresses  # limited where they are looked for
            self.send({"event": "addresses", "addresses": addresses})
        hold = self._holding()
        if hold is not None and hold != self._told_hold:
            self._holds.offer(hold)
        hold = self._holds.take(now)
        if hold is not None and self.send(hold):
            self._told_hold = hold
        self._pass_rarp(now)

    def due(self, now: float) -> float | None:
        """Seconds until `run` has something to tell."""
        if self._channel is None:
            return None
        limiters = (self._states, self._rarps, self._holds)
        waits = [w for w in (limiter.due(now) for limiter in limiters) if w is not None]
        return min(waits, default=None)

    def _pass_rarp(self, now: float) -> None:
        rarp = self._rarps.take(now)
        if rarp is not None:
            self.send(rarp)

    def _accept(self, now: float) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        self._drop()
        self._channel = Channel(sock)
        self._selector.register(self._channel, selectors.EVENT_READ, self._receive)
        hello = {"version": __version__, "pid": os.getpid(), "spec": self._spec().to_json()}
        if self.send({"event": "hello", **hello}):
            self._told = self._told_hold = None
            self._told_addresses = []
            self.run(now)

    def _receive(self, now: float) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            channel.flush()
            for command, fds in channel.receive():
                self._handle(command, fds)
        except ChannelClosed:
            self._drop()
            return
        self._watch()

    def _watch(self) -> None:
        if self._channel is not None:
            wants = selectors.EVENT_WRITE if self._channel.wants_write else 0
            self._selector.modify(self._channel, selectors.EVENT_READ | wants, self._receive)

    def _drop(self) -> None:
        if self._channel is not None:
            self._selector.unregister(self._channel)
            self._channel.close()
            self._channel = None
