# SPDX-License-Identifier: Apache-2.0
"""All workers: forked by the fork server, or adopted from an earlier daemon.

A fork server that dies is replaced; workers and their traffic do not notice.
"""

import contextlib
import os
import select
import socket
from collections.abc import Iterator
from typing import Any, assert_never

from ovs_vhost_plugin.common import pidfile, process
from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.daemon.events import Ended, Event, Heard, Stuck
from ovs_vhost_plugin.daemon.handover.handovers import Handovers
from ovs_vhost_plugin.daemon.reconcile import FIRST_TRY
from ovs_vhost_plugin.daemon.sockets.listener import listen_control
from ovs_vhost_plugin.daemon.workers import cgroups
from ovs_vhost_plugin.daemon.workers.disposal import Disposal
from ovs_vhost_plugin.daemon.workers.forkserver import ForkServerLink
from ovs_vhost_plugin.daemon.workers.link import WorkerLink
from ovs_vhost_plugin.daemon.workers.readiness import Readiness
from ovs_vhost_plugin.ipc import births
from ovs_vhost_plugin.ipc.births import Born, Broken, Exited, ForkWorker, News, Ready, Stillborn
from ovs_vhost_plugin.ipc.channel import Channel, ChannelClosed, connect
from ovs_vhost_plugin.ipc.codec import MessageError
from ovs_vhost_plugin.ipc.commands import Command, HandOver
from ovs_vhost_plugin.ipc.reports import HandedOver
from ovs_vhost_plugin.ipc.spec import WorkerSpec, threads_of
from ovs_vhost_plugin.ipc.vitals import Vitals

vlog = Vlog("vhost_workers")

_SPAWNS_AT_ONCE = 4
"""The most workers requested at a time: their taps' fds are in flight meanwhile."""


class Workers:
    """The links by port name, and the fork server.

    stuck    processes that were killed and do not end
    broken   why no worker can be born, as name and text; "": no error is known
    lacking  the layers that the workers' sandbox lacks on this machine
    build    the code of workers that are born now; "" while there is no fork server
    tap_io   how they write frames to their taps, and why
    """

    def __init__(self, worker_module: str, state: StateDir, *, quiet: bool = False) -> None:
        self.links: dict[str, WorkerLink] = {}
        self.stuck: list[Stuck] = []
        self.broken = ""
        self.lacking: list[str] = []
        self.build = self.tap_io = ""
        self._module = worker_module
        self._state = state
        self._quiet = quiet
        self._groups = cgroups.find()
        self._fork_server: ForkServerLink | None = None
        self._ready = False
        self._requested: set[str] = set()
        self._touched: set[str] = set()
        self._named: dict[int, str] = {}  # the fork server's children
        self._backoff = FIRST_TRY
        self._began = 0.0
        self._ready_links: Readiness[WorkerLink] = Readiness()
        self._alarms: Readiness[WorkerLink] = Readiness()  # see `ipc/vitals.py`
        self.disposal = Disposal()
        self.handovers = Handovers(self.links, self._reconnect, self._alarms, self._groups, state)

    # -- the fork server -------------------------------------------------------------------------

    def start_fork_server(self, now: float) -> None:
        """Start a fork server, if there is none and its back-off is over."""
        if self._fork_server is None and now >= self._backoff.retry_at:
            self._fork_server = ForkServerLink(self._module, self._state, quiet=self._quiet)
            self._began = now

    @property
    def spawn_slots(self) -> int:
        """The number of workers that may be requested now."""
        if self._fork_server is None or not self._ready:
            return 0
        return max(0, _SPAWNS_AT_ONCE - len(self._requested) - self.handovers.unborn)

    @property
    def sandbox(self) -> str:
        """The sandbox of workers that are born now, in words: whole, or its missing layers."""
        if not self._ready:
            return "not known yet"
        return f"without {', '.join(self.lacking)}" if self.lacking else "complete"

    def is_outdated(self, link: WorkerLink) -> bool:
        """Whether a worker runs other code than those that are born now: not one of these."""
        known = bool(self.build) and not link.child
        return known and link.release.build not in (None, self.build)

    def is_dispensable(self, link: WorkerLink) -> bool:
        """Whether a worker is outdated, knows no handover, and has no front-end."""
        waits = link.state is not None and link.state.status in ("connecting", "listening")
        return waits and self.is_outdated(link) and not link.knows(HandOver)

    def pids(self) -> dict[int, str]:
        """The known processes of ours, and the name of each."""
        known = {link.pid: f"the worker of {link.name}" for link in self.links.values() if link.pid}
        if self._fork_server is not None:
            known[self._fork_server.pid] = "our fork server"
        return {**known, **self.handovers.pids(), os.getpid(): "this daemon"}

    def _children(self) -> Iterator[WorkerLink]:
        return (link for link in self.links.values() if link.child)

    def _fork_server_died(self, why: str, now: float) -> None:
        assert self._fork_server is not None
        vlog.warn(f"fork server (pid {self._fork_server.pid}): {why}; starting another")
        self._fork_server.kill()
        self._fork_server, self._ready = None, False
        self._backoff = self._backoff.failed(now, now - self._began)
        self._requested.clear()
        self._named.clear()
        for link in list(self._children()):
            link.orphaned(now)
        self.handovers.orphaned()

    def _hear_fork_server(self, now: float) -> list[Event]:
        if self._fork_server is None:
            return []
        try:
            channel = self._fork_server.channel
            channel.flush()
            said = [births.decode_news(said) for said, _ in channel.receive()]
            events = [self._fork_server_says(news, now) for news in said]
            if self._ready:
                self.disposal.pass_on(channel)
        except (ChannelClosed, MessageError) as closed:
            self._fork_server_died(str(closed), now)
            return []
        return [event for event in events if event is not None]

    def _fork_server_says(self, news: News, now: float) -> Event | None:
        match news:
            case Ready(lacking, build, tap_io):
                self._ready, self.broken, self.build, self.tap_io = True, "", build, tap_io
                self._touched.update(self.links)  # they may be of another build
                self.lacking = list(lacking)
                vlog.info(f"fork server is warm; frames of guests go by {tap_io}")
                if lacking:
                    vlog.warn(f"the workers' sandbox is {self.sandbox}")
            case Broken(error):
                self.broken = f"nursery-broken: {error}"
                vlog.err(f"fork server: {error}")
            case Born(name, pid, successor=True):
                self._named[pid] = name
                self.handovers.born(name, pid, now)
            case Born(name, pid):
                self._requested.discard(name)
                if name in self.links and self.links[name].child:
                    self.links[name].born(pid, now)
                    self._named[pid] = name
            case Stillborn(name, error, successor=True):
                vlog.warn(f"{name}: no successor of its worker: {error}")  # its worker sees the end
            case Stillborn(name, error):
                if name in self.links and self.links[name].child:
                    return self._end(self.links[name], f"worker-not-started: {error}", now)
            case Exited(pid, status):
                link = self.links.get(self._named.pop(pid, ""))
                self.handovers.exited(pid)
                if link is not None and link.child and link.pid == pid:
                    # Its last reports may still be in the pipe.
                    link.receive(now)
                    return self._end(link, link.fault(status), now)
            case _:
                assert_never(news)
        return None

    # -- workers ---------------------------------------------------------------------------------

    def spawn(
        self,
        spec: WorkerSpec,
        front_end: socket.socket | None,
        journal: int,
        tap: int,
        now: float,
    ) -> None:
        """Request a worker; sockets, journal and tap queue stay the caller's to close.

        If the fork server turns out to be dead, this has no effect: there is no link then. Raises
        OSError.
        """
        assert self._fork_server is not None
        path = self._state.control(spec.name)
        with contextlib.closing(listen_control(path)) as control:
            listeners = [control.fileno()] + ([front_end.fileno()] if front_end else [])
            group = self._groups.open(spec.name, spec.uid, threads_of(spec.queues))
            joins = [] if group is None else [group]
            request = ForkWorker(spec, listener=front_end is not None, group=group is not None)
            # The socket listens already, so this connection waits in its queue for the worker.
            link = self._make_link(spec.name, connect(os.fspath(path)), spec, now, child=True)
            try:
                fds = [link.vitals.fd, *joins, *listeners, journal, tap]
                self._fork_server.channel.send(births.encode_request(request), fds)
            except ChannelClosed as closed:
                self._close(link)
                self._state.forget(spec.name)
                self._fork_server_died(str(closed), now)
                return
            finally:
                for fd in joins:
                    os.close(fd)
        self.links[spec.name] = link
        self._requested.add(spec.name)

    def hand_over(self, spec: WorkerSpec, now: float) -> None:
        """Ask a port's worker to hand over to one of `spec`; an event tells. Raises OSError."""
        assert self._fork_server is not None
        try:
            self.handovers.begin(self._fork_server.channel, spec, now)
        except ChannelClosed as closed:
            self._fork_server_died(str(closed), now)

    def dispose(self, fd: int) -> None:
        """Take over an fd that a peer has touched, and let a child close it."""
        self.disposal.take(fd)
        if self._fork_server is not None and self._ready:
            self.disposal.pass_on(self._fork_server.channel)

    def adopt(self, now: float) -> None:
        """Adopt the workers of an earlier daemon, and remove the records of dead ones.

        Raises OSError if there are no fds for all: a worker that is not adopted goes on, and its
        port must not get another one.
        """
        for name in self._state.ports() - self.links.keys():
            path = self._state.control(name)
            pidfile.succeed(self._state.pid(name), self._state.successor(name))
            try:
                channel = connect(os.fspath(path))
            except OSError as error:
                if process.fds_exhausted(error):
                    raise
                self._bury(name)
                continue
            vlog.info(f"{name}: adopting its worker")
            self.links[name] = self._make_link(name, channel, None, now, child=False)

    def _bury(self, name: str) -> None:
        # The worker may live and be too broken to take a connection.
        worker = pidfile.open_process(self._state.pid(name))
        if worker is not None:
            vlog.warn(f"{name}: its worker takes no connection: killed")
            pidfile.kill(worker)
            os.close(worker)
        self._clear(name)

    def _clear(self, name: str) -> None:
        """Remove all remains of a worker that has ended, also processes that it made."""
        self._groups.end(name)
        self._state.forget(name)

    def _make_link(
        self, name: str, channel: Channel, spec: WorkerSpec | None, now: float, *, child: bool
    ) -> WorkerLink:
        """A link over `channel`. Raises OSError if there are no more fds."""
        with contextlib.ExitStack() as stack:
            stack.callback(channel.close)
            vitals = Vitals()
            stack.callback(vitals.close)
            record, ready = self._state.pid(name), self._ready_links
            link = WorkerLink(name, channel, spec, record, vitals, ready, now, child=child)
            stack.pop_all()
        self._alarms.watch(vitals.alarm, select.POLLIN, link)
        return link

    def _reconnect(self, spec: WorkerSpec, now: float, child: bool) -> WorkerLink:
        """A link to the successor of a port's worker, by the same listener. Raises OSError."""
        channel = connect(os.fspath(self._state.control(spec.name)))
        return self._make_link(spec.name, channel, spec, now, child=child)

    def abandon(self, name: str) -> None:
        """Give up a worker that was killed and does not end, so its port is free for another."""
        link = self.links.pop(name)
        self._requested.discard(name)
        link.abandon()
        self.stuck.append(Stuck(name, link))
        self._clear(name)

    # -- the loop --------------------------------------------------------------------------------

    def run(self, now: float) -> list[Event]:
        """Receive all reports and ends of workers."""
        self.start_fork_server(now)
        events: list[Event] = []
        ready = self._ready_links.ready()
        self._touched.update(link.name for link in ready)
        for link in ready:
            for report in link.receive(now):
                if isinstance(report, HandedOver):
                    events += self.handovers.answered(link, report, now)
                else:
                    events.append(Heard(link.name, report))
        events += self._hear_fork_server(now)
        events += self.handovers.run(now)
        for link in self._alarms.ready():
            link.alarmed(now)
        for link in ready:
            if self.links.get(link.name) is link and link.ended():
                events.append(self._end(link, link.fault(None), now))
        for stuck in [stuck for stuck in self.stuck if stuck.link.ended()]:
            vlog.info(f"{stuck.name}: the worker that was stuck has ended")
            self._close(stuck.link)
            self.stuck.remove(stuck)
        return events

    def take_touched(self) -> set[str]:
        """The ports of the workers to which something happened since the last call."""
        touched, self._touched = self._touched, set()
        return touched

    def _close(self, link: WorkerLink) -> None:
        """Close the link to a worker."""
        self._alarms.forget(link.vitals.alarm)
        link.close()

    def get_timer(self) -> float | None:
        """The time at which a fork server may be started or a handover is late; None: neither."""
        start = self._backoff.retry_at if self._fork_server is None else None
        times = (start, self.handovers.get_timer())
        return min((at for at in times if at is not None), default=None)

    def wait(self, poller: Any) -> None:
        """Register the fds that `run` has to be called for."""
        self._ready_links.wait(poller)
        self._alarms.wait(poller)
        if self._fork_server is not None:
            channel = self._fork_server.channel
            wants = select.POLLOUT if channel.wants_write or self.disposal.waiting else 0
            poller.fd_wait(channel.fileno(), select.POLLIN | wants)

    def tell(self, name: str, command: Command, now: float) -> bool:
        """Send a command to a port's worker; False: there is no worker to receive it."""
        return name in self.links and self.links[name].send(command, now)

    def forget_all(self) -> None:
        """Close the links to all workers, as another daemon serves the database now."""
        for link in [*self.links.values(), *(stuck.link for stuck in self.stuck)]:
            self._close(link)
        self.handovers.close()
        self.links.clear()
        self.stuck.clear()
        self._requested.clear()

    def close(self) -> None:
        """Close all links and the fork server's channel: it ends by that, the workers do not."""
        self.forget_all()
        if self._fork_server is not None:
            self._fork_server.leave()
            self._fork_server = None

    def _end(self, link: WorkerLink, fault: str, now: float) -> Ended:
        self._close(link)
        del self.links[link.name]
        self._requested.discard(link.name)
        self.handovers.drop(link.name)  # whoever of the two has the port now
        self._clear(link.name)
        return Ended(link.name, fault, now - link.began)
