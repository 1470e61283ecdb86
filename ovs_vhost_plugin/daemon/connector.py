# SPDX-License-Identifier: Apache-2.0
"""Connects workers to their front-ends: a worker has no file system, so the daemon does it.

A worker only asks. Its row names the socket, and this module decides when to try. A VM that is not
there yet is no error: the way to its socket is watched (`sockets/waywatch.py`), and nobody wakes
before something on it changes. Its name comes at bind(2), a moment before listen(2), so a socket
that refuses is tried again after milliseconds, then ever later. A socket that has to be mended has
a name in `errors` until it is mended. A worker that wears out its connections gets them ever more
slowly, whatever it reports.

Closing a socket that a peer has had can wait for that peer: fds in the socket's queue are closed
with it, and one of them may linger (SO_LINGER, socket(7)). So such sockets are not closed here but
handed to `dispose`.
"""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum, auto
from socket import socket
from typing import Any, Protocol

from ovs_vhost_plugin.common.backoff import Backoff
from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.daemon.events import Ended, Event, Heard
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.sockets import sockpath
from ovs_vhost_plugin.daemon.sockets.reach import Nobody
from ovs_vhost_plugin.daemon.sockets.sockpath import OnStep
from ovs_vhost_plugin.daemon.sockets.sockpolicy import SocketError, SocketErrorName
from ovs_vhost_plugin.daemon.workers.link import WorkerLink
from ovs_vhost_plugin.ipc.commands import Connected
from ovs_vhost_plugin.ipc.reports import AskConnection

vlog = Vlog("vhost_connector")

GOOD_AFTER, LONGEST_PAUSE = 5.0, 10.0
"""A connection that lived less long (seconds) costs a pause, which doubles up to the longest."""

_LOSSES = Backoff(0.1, LONGEST_PAUSE)
_FRESH_AFTER = 1.0
"""Seconds after which a change on the way begins the pauses anew: some change it without end."""
_SLOTS = 16
"""Pauses of a second and more end together, so often a second: each end wakes the daemon."""


class Obstacle(Enum):
    """Further reasons why a port is tried again, beside `Nobody`.

    TO_MEND    a `SocketError`
    UNWATCHED  nobody is there, and nothing will tell when somebody comes
    NOT_TAKEN  the worker does not read, or a connection could not be disposed of
    """

    TO_MEND = auto()
    UNWATCHED = auto()
    NOT_TAKEN = auto()


PAUSES: Mapping[Nobody | Obstacle, Backoff] = {
    Nobody.NOT_LISTENING: Backoff(0.005, 10.0),
    Nobody.BUSY: Backoff(0.005, 1.0),
    Obstacle.TO_MEND: Backoff(0.1, 5.0),
    Obstacle.UNWATCHED: Backoff(0.1, 1.0),
    Obstacle.NOT_TAKEN: Backoff(0.1, 1.0),
}
"""The pauses between tries, by the reason. A change on the way ends any of them."""


class Ways(Protocol):
    """The calls of `sockets/waywatch.py` that are used here."""

    refusals: dict[str, str]

    def following(self, port: str) -> AbstractContextManager[OnStep]:
        """See `WayWatch.following`."""

    def forget(self, port: str) -> None:
        """See `WayWatch.forget`."""

    def changed(self, now: float) -> set[str]:
        """See `WayWatch.changed`."""

    def get_timer(self) -> float | None:
        """See `WayWatch.get_timer`."""

    def wait(self, poller: Any) -> None:
        """See `WayWatch.wait`."""

    def close(self) -> None:
        """See `WayWatch.close`."""


@dataclass(slots=True)
class _Port:
    """A worker's request for a front-end.

    asked    whether the worker waits
    reason   why the last try was in vain; `pause`: the pause after it
    fresh    when the pauses began anew
    losses   connections that the worker wore out, one after the other
    """

    asked: bool = False
    reason: Nobody | Obstacle | None = None
    pause: Backoff = _LOSSES
    fresh: float = -math.inf
    losses: Backoff = _LOSSES
    connected_at: float = -math.inf


class Connector:
    """The workers that wait for a front-end.

    errors  by port: the error to mend before it can have a front-end, as name and text
    """

    def __init__(
        self,
        links: Mapping[str, WorkerLink],
        reach: Callable[[str, str, OnStep], socket | Nobody],
        ways: Ways,
        counters: Counter[str],
        random: Callable[[], float],
        dispose: Callable[[int], None] = os.close,
        may_try: Callable[[], bool] = lambda: True,
    ) -> None:
        """`reach`: `Reach.connect`; `counters` counts errors by name; `dispose` takes an fd.

        `random` returns a number from 0 to 1. Unless `may_try()`, nothing is tried: its sockets
        could not be disposed of.
        """
        self.errors: dict[str, str] = {}
        self._links = links
        self._reach = reach
        self._ways = ways
        self._counters = counters
        self._random = random
        self._dispose = dispose
        self._may_try = may_try
        self._ports: dict[str, _Port] = {}
        self._due: dict[str, float] = {}  # the ports whose next try has a time
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
        for name in self._ways.changed(now):
            self._changed(name, now)
        self._wake_at = self._ways.get_timer()
        for name in list(self._due):
            link = self._links.get(name)
            if link is None:
                self._forget(name)
                continue
            port = ports.get(name)
            if port is None or not _serves(link, port):
                continue  # another turn comes when that has changed
            if now >= self._due[name]:
                self._try(port, link, self._ports[name], now)
            due = self._due.get(name)
            if due is not None and (self._wake_at is None or due < self._wake_at):
                self._wake_at = due

    def get_timer(self) -> float | None:
        """The time of the next try; None: not before a worker asks or a way changes."""
        return self._wake_at

    def wait(self, poller: Any) -> None:
        """Register the fds that `run` has to be called for."""
        self._ways.wait(poller)

    def let_go(self) -> None:
        """Forget all workers: they are another daemon's now."""
        for name in list(self._ports):
            self._forget(name)

    def close(self) -> None:
        """Watch no way any more."""
        self._ways.close()

    def _asked(self, name: str, now: float) -> None:
        wants = self._ports.setdefault(name, _Port())
        if wants.asked:
            return
        wants.asked, wants.reason = True, None
        good = now - wants.connected_at >= GOOD_AFTER
        wants.losses = wants.losses.worked() if good else wants.losses.failed(now)
        self._due[name] = now + wants.losses.delay

    def _changed(self, name: str, now: float) -> None:
        """Try a port now: something on its way has changed."""
        wants = self._ports[name]
        if wants.reason is None:
            return  # it pauses for what its worker did
        self._due[name] = now
        if now - wants.fresh >= _FRESH_AFTER:
            wants.fresh, wants.pause = now, wants.pause.worked()

    def _try(self, port: PortSpec, link: WorkerLink, wants: _Port, now: float) -> None:
        if not self._may_try():
            self._later(port.name, wants, Obstacle.NOT_TAKEN, now)
            return
        try:
            with self._ways.following(port.name) as on_step:
                found = self._reach(port.path, port.socket_owner, on_step)
        except SocketError as error:
            self._refused(port.name, str(error))
            self._later(port.name, wants, Obstacle.TO_MEND, now)
            return
        if isinstance(found, Nobody):
            self._await(port.name, wants, found, now)
            return
        self.errors.pop(port.name, None)
        sockpath.take_rights(found)
        if link.send(Connected(), now, (found.fileno(),)):
            wants.asked, wants.connected_at = False, now
            self._ways.forget(port.name)
            del self._due[port.name]
        else:
            self._later(port.name, wants, Obstacle.NOT_TAKEN, now)
        self._dispose(found.detach())

    def _await(self, name: str, wants: _Port, nobody: Nobody, now: float) -> None:
        """Let a port wait for a front-end that is not there."""
        refusal = self._ways.refusals.get(name)
        if refusal is not None:
            self._refused(name, f"{SocketErrorName.UNWATCHED}: {refusal}")
            self._later(name, wants, Obstacle.UNWATCHED, now)
            return
        self.errors.pop(name, None)
        if nobody is Nobody.ABSENT:
            wants.reason = nobody
            del self._due[name]
        else:
            self._later(name, wants, nobody, now)

    def _later(self, name: str, wants: _Port, reason: Nobody | Obstacle, now: float) -> None:
        """Try a port again after a pause, part of which is left to chance."""
        before = wants.pause if reason is wants.reason else PAUSES[reason]
        wants.reason, wants.pause = reason, before.failed(now)
        delay = wants.pause.delay * (0.75 + 0.25 * self._random())
        at = now + delay
        self._due[name] = at if delay < 0.5 else math.ceil(at * _SLOTS) / _SLOTS

    def _refused(self, name: str, error: str) -> None:
        if self.errors.get(name) != error:
            vlog.warn(f"{name}: {error}")
            self._counters[error.partition(":")[0]] += 1
        self.errors[name] = error

    def _forget(self, name: str) -> None:
        self._ports.pop(name, None)
        self._due.pop(name, None)
        self.errors.pop(name, None)
        self._ways.forget(name)


def _serves(link: WorkerLink, port: PortSpec) -> bool:
    """Whether a worker serves its present row; if not, another worker will come."""
    return (
        port.mode == "client"
        and link.spec is not None
        and (link.spec.mode, link.spec.path) == (port.mode, port.path)
        and not link.told_to_quit
    )
