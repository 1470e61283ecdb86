# SPDX-License-Identifier: Apache-2.0
"""All workers: born by the nursery, or found from an earlier daemon and adopted.

A nursery that dies is replaced, workers and their traffic do not notice.
"""

import contextlib
import math
import os
import select
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ovs.vlog

from ovs_vhost_plugin import __version__
from ovs_vhost_plugin.control import Channel, ChannelClosed, WorkerSpec
from ovs_vhost_plugin.daemon import nursery, pidfile
from ovs_vhost_plugin.daemon.listener import listen_control
from ovs_vhost_plugin.daemon.reconcile import Backoff
from ovs_vhost_plugin.daemon.reports import Report, printable
from ovs_vhost_plugin.daemon.workerlink import WorkerLink
from ovs_vhost_plugin.dirs import StateDir

vlog = ovs.vlog.Vlog("vhost_workers")

_SPAWNS_AT_ONCE = 4
"""Workers that the nursery is asked for at a time: their taps' fds are in flight meanwhile."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A worker reported."""

    name: str
    report: Report


@dataclass(frozen=True, slots=True)
class Ended:
    """A worker has ended, or was never born; `fault` is "" when it was told to end."""

    name: str
    fault: str
    lived: float


Event = Heard | Ended


class Workers:
    """The links by port name, and the nursery.

    broken  why no worker can be born, as name and text; "" when nothing is known to be wrong
    """

    def __init__(self, worker_module: str, state: StateDir) -> None:
        self.links: dict[str, WorkerLink] = {}
        self.broken = ""
        self._module = worker_module
        self._state = state
        self._nursery: Channel | None = None
        self._nursery_pid = 0
        self._ready = False
        self._backoff = Backoff()
        self._began = 0.0

    # -- the nursery -----------------------------------------------------------------------------

    def start_nursery(self, now: float) -> None:
        """Fork it, if there is none and none failed just now."""
        if self._nursery is None and now >= self._backoff.retry_at:
            self._nursery_pid, self._nursery = nursery.start(self._module, self._state)
            self._began = now

    @property
    def spawn_slots(self) -> int:
        """How many workers may be asked for now."""
        if self._nursery is None or not self._ready:
            return 0
        return max(0, _SPAWNS_AT_ONCE - sum(link.pid is None for link in self._children()))

    def _children(self) -> Iterator[WorkerLink]:
        return (link for link in self.links.values() if link.child)

    def _nursery_died(self, why: str, now: float) -> None:
        assert self._nursery is not None
        vlog.warn(f"nursery (pid {self._nursery_pid}): {why}; starting another")
        self._nursery.close()
        self._nursery, self._ready = None, False
        # Our own child, not waited for yet, so the pid is still its own.
        os.kill(self._nursery_pid, signal.SIGKILL)
        os.waitpid(self._nursery_pid, 0)
        self._backoff = self._backoff.failed(now, now - self._began)
        for link in list(self._children()):
            link.orphaned(now)

    def _hear_nursery(self, now: float) -> list[Event]:
        if self._nursery is None:
            return []
        try:
            self._nursery.flush()
            events = [self._nursery_says(said, now) for said, _ in self._nursery.receive()]
        except ChannelClosed as closed:
            self._nursery_died(str(closed), now)
            return []
        return [event for event in events if event is not None]

    def _nursery_says(self, said: dict[str, Any], now: float) -> Event | None:
        match said:
            case {"event": "ready"}:
                self._ready, self.broken = True, ""
                vlog.info(f"nursery (pid {self._nursery_pid}) is warm")
            case {"event": "broken", "error": error}:
                self.broken = f"nursery-broken: {printable(error)}"
                vlog.err(f"nursery (pid {self._nursery_pid}): {printable(error)}")
            case {"event": "born", "name": name, "pid": pid}:
                if name in self.links and self.links[name].child:
                    self.links[name].born(pid, now)
            case {"event": "stillborn", "name": name, "error": error}:
                if name in self.links and self.links[name].child:
                    return self._end(self.links[name], f"worker-not-started: {error}", now)
            case {"event": "exited", "pid": pid, "status": status}:
                link = next((link for link in self._children() if link.pid == pid), None)
                if link is not None:
                    # What it said last may still be in its channel.
                    link.receive(now)
                    return self._end(link, link.fault(status), now)
        return None

    # -- workers ---------------------------------------------------------------------------------

    def spawn(
        self,
        spec: WorkerSpec,
        front_end: socket.socket | None,
        journal: int,
        queues: Sequence[int],
        now: float,
    ) -> None:
        """Ask the nursery for a worker; sockets, journal and queues stay the caller's to close.

        Without effect when the nursery turns out to be dead: there is no link then.
        """
        assert self._nursery is not None
        path = self._state.control(spec.name)
        with contextlib.closing(listen_control(path)) as control:
            listeners = [control.fileno()] + ([front_end.fileno()] if front_end else [])
            request = {"spec": spec.to_json(), "listener": front_end is not None}
            # Into the queue of a socket that listens already: the worker answers once it runs.
            channel = _connect(os.fspath(path))
            try:
                self._nursery.send(request, [*listeners, journal, *queues])
            except ChannelClosed as closed:
                channel.close()
                self._state.forget(spec.name)
                self._nursery_died(str(closed), now)
                return
        self._link(spec.name, channel, spec, now, child=True)

    def adopt(self, now: float) -> None:
        """Find the workers of an earlier daemon; clear away what dead ones left."""
        for name in self._state.ports() - self.links.keys():
            path = self._state.control(name)
            try:
                channel = _connect(os.fspath(path))
            except OSError:
                self._bury(name)
                continue
            vlog.info(f"{name}: adopting its worker")
            self._link(name, channel, None, now, child=False)

    def _bury(self, name: str) -> None:
        # It may live and be too broken to take a connection.
        process = pidfile.open_process(self._state.pid(name))
        if process is not None:
            vlog.warn(f"{name}: its worker takes no connection: killed")
            pidfile.kill(process)
            os.close(process)
        self._state.forget(name)

    def _link(
        self, name: str, channel: Channel, spec: WorkerSpec | None, now: float, *, child: bool
    ) -> None:
        record, log = self._state.pid(name), self._state.log(name)
        link = WorkerLink(name, channel, spec, record, log, now, child=child)
        self.links[name] = link
        link.send({"op": "hello", "version": __version__}, now)

    # -- the loop --------------------------------------------------------------------------------

    def run(self, now: float) -> list[Event]:
        """Everything that was reported, and who has ended."""
        self.start_nursery(now)
        events: list[Event] = []
        for link in list(self.links.values()):
            events += [Heard(link.name, report) for report in link.receive(now)]
        events += self._hear_nursery(now)
        for link in list(self.links.values()):
            if link.ended():
                events.append(self._end(link, link.fault(None), now))
        return events

    def wait(self, poller: Any, now: float) -> None:
        """Register what `run` has to be called for."""
        for link in self.links.values():
            link.wait(poller)
        if self._nursery is not None:
            wants = select.POLLOUT if self._nursery.wants_write else 0
            poller.fd_wait(self._nursery.fileno(), select.POLLIN | wants)
        else:
            poller.timer_wait(math.ceil((self._backoff.retry_at - now) * 1000))

    def tell(self, name: str, command: dict[str, Any], now: float) -> bool:
        """Send a command to a port's worker; False when there is none to hear it."""
        return name in self.links and self.links[name].send(command, now)

    def forget_all(self) -> None:
        """Let go of all workers, as another daemon serves the database now."""
        for link in self.links.values():
            link.close()
        self.links.clear()

    def close(self) -> None:
        """Let go of all; the nursery ends by that, the workers do not."""
        self.forget_all()
        if self._nursery is not None:
            self._nursery.close()
            self._nursery = None

    def _end(self, link: WorkerLink, fault: str, now: float) -> Ended:
        link.close()
        del self.links[link.name]
        self._state.forget(link.name)
        return Ended(link.name, fault, now - link.began)


def _connect(path: str) -> Channel:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return Channel(sock, max_fds=0)
