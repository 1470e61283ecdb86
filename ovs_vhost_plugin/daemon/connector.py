# SPDX-License-Identifier: Apache-2.0
"""Connects workers to their front-ends: a worker has no file system, so the daemon does it.

A worker only asks. Its row names the socket, and this module decides how often to try. A VM that is
not there yet is no error and is tried again, so that its boot does not wait for us. A socket that
has to be mended has a name in `errors` until it is mended. A worker that wears out its connections
gets them ever more slowly, whatever it reports.

Closing a socket that a peer has had can wait for that peer: fds in the socket's queue are closed
with it, and one of them may linger (SO_LINGER, socket(7)). So such sockets are not closed here but
handed to `dispose`.
"""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from socket import socket

import ovs.vlog

from ovs_vhost_plugin.common.backoff import Backoff
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.sockets import sockpath
from ovs_vhost_plugin.daemon.sockets.sockpolicy import SocketError
from ovs_vhost_plugin.daemon.workers.link import WorkerLink
from ovs_vhost_plugin.daemon.workers.workers import Ended, Event, Heard
from ovs_vhost_plugin.ipc.commands import Connected
from ovs_vhost_plugin.ipc.reports import AskConnection

vlog = ovs.vlog.Vlog("vhost_connector")

FIRST_RETRY, LAST_RETRY = 0.1, 1.0
"""Seconds, at most, until a socket without a listener is tried again; they double."""

GOOD_AFTER, LONGEST_PAUSE = 5.0, 10.0
"""A connection that lived less long (seconds) costs a pause, which doubles up to the longest."""

_TRIES = Backoff(FIRST_RETRY, LAST_RETRY)
_LOSSES = Backoff(FIRST_RETRY, LONGEST_PAUSE)


@dataclass(slots=True)
class _Port:
    """A worker's request for a front-end.

    asked    whether the worker waits; the next try is at `due`
    tries    tries in vain since the worker asked
    losses   connections that the worker wore out, one after the other
    """

    asked: bool = False
    due: float = 0.0
    tries: Backoff = _TRIES
    losses: Backoff = _LOSSES
    connected_at: float = -math.inf


class Connector:
    """The workers that wait for a front-end.

    errors  by port: the error to mend before it can have a front-end, as name and text
    """

    def __init__(
        self,
        links: Mapping[str, WorkerLink],
        reach: Callable[[str, str], socket | None],
        counters: Counter[str],
        dispose: Callable[[int], None] = os.close,
        may_try: Callable[[], bool] = lambda: True,
    ) -> None:
        """`reach`: `Reach.connect`; `counters` counts errors by name; `dispose` takes an fd.

        Unless `may_try()`, nothing is tried: its sockets could not be disposed of.
        """
        self.errors: dict[str, str] = {}
        self._links = links
        self._reach = reach
        self._counters = counters
        self._dispose = dispose
        self._may_try = may_try
        self._ports: dict[str, _Port] = {}
        self._wake_at: float | None = None

    def take(self, events: Iterable[Event], now: float) -> None:
        """Record the workers that want a front-end, and those that have ended."""
        for event in events:
            match event:
                case Heard(name, AskConnection()):
                    self._asked(name, now)
                case Ended(name):
                    self._forget(name)

    def run(self, ports: Mapping[str, PortSpec], now: float) -> None:
        """Try to connect the workers that are due; `ports` are the ports of the present rows."""
        self._wake_at = None
        for name in list(self._ports):
            link, wants = self._links.get(name), self._ports[name]
            if link is None:
                self._forget(name)
                continue
            port = ports.get(name)
            if port is None or not wants.asked or not _serves(link, port):
                continue  # another turn comes when that has changed
            if now >= wants.due:
                self._try(port, link, wants, now)
            if wants.asked and (self._wake_at is None or wants.due < self._wake_at):
                self._wake_at = wants.due

    def get_timer(self) -> float | None:
        """The time of the next try; None: not before a worker asks."""
        return self._wake_at

    def _asked(self, name: str, now: float) -> None:
        wants = self._ports.setdefault(name, _Port())
        if wants.asked:
            return
        wants.asked, wants.tries = True, wants.tries.worked()
        good = now - wants.connected_at >= GOOD_AFTER
        wants.losses = wants.losses.worked() if good else wants.losses.failed(now)
        wants.due = now + wants.losses.delay

    def _try(self, port: PortSpec, link: WorkerLink, wants: _Port, now: float) -> None:
        wants.tries = wants.tries.failed(now)
        wants.due = _next_multiple(wants.tries.delay, now)
        if not self._may_try():
            return
        try:
            sock = self._reach(port.path, port.socket_owner)
        except SocketError as error:
            self._refused(port.name, str(error))
            return
        self.errors.pop(port.name, None)
        if sock is None:
            return
        sockpath.take_rights(sock)
        if link.send(Connected(), now, (sock.fileno(),)):
            wants.asked, wants.connected_at = False, now
        self._dispose(sock.detach())

    def _refused(self, name: str, error: str) -> None:
        if self.errors.get(name) != error:
            vlog.warn(f"{name}: {error}")
            self._counters[error.partition(":")[0]] += 1
        self.errors[name] = error

    def _forget(self, name: str) -> None:
        self._ports.pop(name, None)
        self.errors.pop(name, None)


def _serves(link: WorkerLink, port: PortSpec) -> bool:
    """Whether a worker serves its present row; if not, another worker will come."""
    return (
        port.mode == "client"
        and link.spec is not None
        and (link.spec.mode, link.spec.path) == (port.mode, port.path)
        and not link.told_to_quit
    )


def _next_multiple(delay: float, now: float) -> float:
    """The next time to try, at most `delay` seconds from now.

    So the tries of many ports fall together, as each time awakens the whole daemon.
    """
    return (math.floor(now / delay) + 1) * delay
