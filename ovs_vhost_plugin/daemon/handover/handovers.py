# SPDX-License-Identifier: Apache-2.0
"""The handovers that the daemon has asked for: from a port's worker to its successor.

The daemon makes the socket between the two and hears the end from the worker that gives. Who has
the port is decided between them (`worker/handover/`); the daemon only follows.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

from ovs_vhost_plugin.common import pidfile
from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.daemon.events import HandoverEnded
from ovs_vhost_plugin.daemon.workers.cgroups import Cgroups
from ovs_vhost_plugin.daemon.workers.link import WorkerLink
from ovs_vhost_plugin.daemon.workers.readiness import Readiness
from ovs_vhost_plugin.ipc import births
from ovs_vhost_plugin.ipc.births import ForkWorker
from ovs_vhost_plugin.ipc.channel import Channel
from ovs_vhost_plugin.ipc.codec import printable
from ovs_vhost_plugin.ipc.commands import HandOver
from ovs_vhost_plugin.ipc.reports import HandedOver
from ovs_vhost_plugin.ipc.spec import WorkerSpec, threads_of
from ovs_vhost_plugin.ipc.vitals import Vitals

TIMEOUT = 12.0
"""Seconds for a handover's end; a worker needs a tenth of one, and gives up after six."""

Reconnect = Callable[[WorkerSpec, float, bool], WorkerLink]
"""Makes the link to a successor, a child of the fork server or not. Raises OSError."""


@dataclass(slots=True)
class Handover:
    """One port's handover.

    spec    of the successor
    vitals  its standard error, until it serves
    pid     the successor's; None while it is not born
    child   whether it is a child of the present fork server
    """

    number: int
    spec: WorkerSpec
    vitals: Vitals
    since: float
    pid: int | None = None
    child: bool = True

    def ended(self, outcome: str, told: str, now: float) -> HandoverEnded:
        """The event, with the successor's own last words, if it had any."""
        words = self.vitals.last_words.strip().rpartition("\n")[2]
        why = printable(f"{told}; it said: {words}" if words else told)
        return HandoverEnded(self.spec.name, outcome, why, now - self.since)


class Handovers:
    """The handovers, at most one a port, and the workers that have handed over and not ended."""

    def __init__(
        self,
        links: dict[str, WorkerLink],
        reconnect: Reconnect,
        alarms: Readiness[WorkerLink],
        groups: Cgroups,
        state: StateDir,
    ) -> None:
        """`links`: by port name; a successor takes its place there."""
        self._links = links
        self._reconnect = reconnect
        self._alarms = alarms
        self._groups = groups
        self._state = state
        self._under_way: dict[str, Handover] = {}
        self._left: list[WorkerLink] = []
        self._numbers = count(1)

    def __len__(self) -> int:
        return len(self._under_way)

    def __contains__(self, name: str) -> bool:
        return name in self._under_way

    @property
    def unborn(self) -> int:
        """Successors that the fork server was asked for and has not reported."""
        return sum(one.pid is None and one.child for one in self._under_way.values())

    def pids(self) -> dict[int, str]:
        """The successors' processes, and the name of each."""
        found = self._under_way.items()
        return {one.pid: f"the next worker of {name}" for name, one in found if one.pid}

    def begin(self, fork_server: Channel, spec: WorkerSpec, now: float) -> None:
        """Ask for a successor, and ask the worker of the port to hand over to it.

        Raises ChannelClosed if the fork server has gone, and OSError.
        """
        made = Handover(next(self._numbers), spec, Vitals(), now)
        self._under_way[spec.name] = made
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as stack:
            # Without a successor, the worker sees the end of the socket.
            stack.enter_context(theirs)
            group = self._groups.open(spec.name, spec.uid, threads_of(spec.queues))
            joins = [] if group is None else [group]
            for fd in joins:
                stack.callback(os.close, fd)
            with ours:
                self._links[spec.name].send(HandOver(made.number), now, (ours.fileno(),))
            request = ForkWorker(spec, group=group is not None, successor=True)
            fds = [made.vitals.fd, *joins, theirs.fileno()]
            fork_server.send(births.encode_request(request), fds)

    def born(self, name: str, pid: int, now: float) -> None:
        """Note a successor's pid, which may come when it serves already."""
        link = self._links.get(name)
        if name in self._under_way:
            self._under_way[name].pid = pid
        elif link is not None and link.child and link.pid is None:
            link.born(pid, now)

    def exited(self, pid: int) -> None:
        """Note that a successor has ended: the fork server does not report it once more."""
        for one in self._under_way.values():
            one.child = one.child and one.pid != pid

    def orphaned(self) -> None:
        """Note that the fork server has died: successors are no children any more."""
        for one in self._under_way.values():
            one.child = False

    def answered(self, link: WorkerLink, report: HandedOver, now: float) -> list[HandoverEnded]:
        """Follow the end of a handover: from now on the port has one worker again."""
        handover = self._under_way.get(link.name)
        if handover is None or handover.number != report.id:
            return []
        ended = handover.ended(report.outcome, report.why, now)
        if report.outcome != "done":
            self.drop(link.name)
            return [ended]
        try:
            self._replace(link, handover, now)
        except OSError as error:
            link.kill(f"its successor cannot be reached: {error.strerror}", now)
            return [replace(ended, outcome="failed", why=str(error.strerror))]
        return [ended]

    def drop(self, name: str) -> None:
        """End the handover of a port, if there is one, and its successor."""
        handover = self._under_way.pop(name, None)
        if handover is None:
            return
        handover.vitals.close()
        record = self._state.successor(name)
        process = pidfile.open_process(record)
        if process is not None:
            pidfile.kill(process)
            os.close(process)
        record.unlink(missing_ok=True)
        self._groups.end(name, handover.spec.uid)

    def run(self, now: float) -> list[HandoverEnded]:
        """End handovers that last too long with both workers: nobody knows who has the port."""
        for link in [link for link in self._left if link.ended()]:
            link.close()
            self._left.remove(link)
        events = []
        for name, one in list(self._under_way.items()):
            if now >= one.since + TIMEOUT:
                events.append(one.ended("failed", "its worker does not answer", now))
                self.drop(name)
                self._links[name].kill("it did not hand its port over in time", now)
        return events

    def get_timer(self) -> float | None:
        """The time at which a handover is late; None: none is under way."""
        return min((one.since + TIMEOUT for one in self._under_way.values()), default=None)

    def close(self) -> None:
        """Leave all handovers to the workers."""
        for one in self._under_way.values():
            one.vitals.close()
        self._under_way.clear()
        for link in self._left:
            link.close()
        self._left.clear()

    def _replace(self, before: WorkerLink, handover: Handover, now: float) -> None:
        """Kill the worker that has given all away, and serve its successor. Raises OSError."""
        name = before.name
        link = self._reconnect(handover.spec, now, handover.child)
        link.replace(before)
        before.kill("its port is another worker's", now)
        before.abandon()
        self._alarms.forget(before.vitals.alarm)
        self._left.append(before)
        if before.spec is not None:
            self._groups.end(name, before.spec.uid)
        with contextlib.suppress(FileNotFoundError):
            self._state.successor(name).rename(self._state.pid(name))
        if handover.pid is not None:
            link.born(handover.pid, now)
        del self._under_way[name]
        handover.vitals.close()
        self._links[name] = link
