# SPDX-License-Identifier: Apache-2.0
"""Replaces workers of another build by workers of this one, a few at a time.

A worker that knows how hands its port over while its guest runs (`workers/handovers.py`). A worker
of a release before that serves its front-end as long as it stays; then `reconcile.py` ends it, and
the port gets a new worker as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from ovs_vhost_plugin.common.backoff import Backoff
from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.daemon.events import Ended, Event, HandoverEnded, Heard
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.ports import Ports
from ovs_vhost_plugin.daemon.reconcile import Phase, worker_spec
from ovs_vhost_plugin.daemon.workers.link import WorkerLink
from ovs_vhost_plugin.ipc.commands import HandOver
from ovs_vhost_plugin.ipc.reports import WorkerHello
from ovs_vhost_plugin.ipc.spec import WorkerSpec

vlog = Vlog("vhost_upgrading")

AT_ONCE = 2
"""Handovers under way at a time: each needs a processor while its guest's rings stand still."""

_FIRST_RETRY, _LAST_RETRY = 0.1, 10.0
"""Seconds until a worker that was busy is asked again; they double."""


_FIRST_TRY = Backoff(_FIRST_RETRY, _LAST_RETRY)


@dataclass(slots=True)
class _Port:
    """The knowledge of one port's upgrade.

    by_hand  an operator has asked for it
    outcome  of the last handover, in words; "" while there was none, or one is under way
    tried    the build that the port was last handed over to, or could not be: not tried by itself
    """

    by_hand: bool = False
    outcome: str = ""
    tried: str = ""
    backoff: Backoff = _FIRST_TRY


class Upgrading:
    """The upgrades of all ports.

    by_itself  whether workers of another build are replaced without being asked
    errors     the errors of ports whose last handover failed, as name and text
    """

    def __init__(
        self, ports: Ports, make_ids: Callable[[], tuple[int, int]], *, by_itself: bool
    ) -> None:
        """`make_ids`: the user and group of a new worker; raises OSError."""
        self.errors: dict[str, str] = {}
        self._ports = ports
        self._make_ids = make_ids
        self._by_itself = by_itself
        self._known: dict[str, _Port] = {}
        self._todo: set[str] = set()  # ports to look at, so that no turn looks at all of them
        self._build = ""

    def take(self, events: Iterable[Event], now: float) -> None:
        """Note how handovers ended, and that workers are gone."""
        for event in events:
            match event:
                case HandoverEnded():
                    self._ended(event, now)
                case Heard(name, WorkerHello()):
                    self._todo.add(name)
                case Ended(name):
                    self.errors.pop(name, None)
                    if name in self._known:
                        self._known[name] = _Port(outcome="its worker has ended")

    def run(self, desired: Mapping[str, PortSpec], now: float) -> None:
        """Ask workers to hand over, as many as may be under way."""
        workers = self._ports.workers
        if workers.build != self._build:
            self._build = workers.build
            self._todo.update(workers.links)
        for name in sorted(self._todo):
            port = desired.get(name)
            if port is None or not self._wanted(port):
                self._todo.discard(name)
            elif len(workers.handovers) >= AT_ONCE or not workers.spawn_slots:
                return
            elif self._can_begin(port, now):
                self._todo.discard(name)
                self._known.setdefault(name, _Port()).outcome = ""
                vlog.info(f"{name}: replacing its worker")
                self._begin(port, now)

    def _begin(self, port: PortSpec, now: float) -> None:
        try:
            uid, gid = self._make_ids()
            self._ports.workers.hand_over(replace(worker_spec(port), uid=uid, gid=gid), now)
        except OSError as error:
            why = f"no successor: {error.strerror}"
            self._ended(HandoverEnded(port.name, "failed", why, 0.0), now)

    def get_timer(self) -> float | None:
        """The time at which a worker that was busy is asked again; None: none is."""
        waiting = (self._known[name].backoff.retry_at for name in self._todo & self._known.keys())
        return min((at for at in waiting if at), default=None)

    def ask(self, port: PortSpec) -> str:
        """Upgrade a port on an operator's demand; return why that cannot be, "" if it can."""
        link = self._ports.link(port.name)
        if link is None or link.phase is not Phase.RUNNING:
            return "its worker does not run"
        if not link.knows(HandOver):
            return "its worker is of a release without handover: see docs/upgrade.md"
        self._known[port.name] = _Port(by_hand=True)
        self._todo.add(port.name)
        return ""

    def outcome(self, name: str) -> str:
        """How the last handover of a port ended, in words; "" while one is to come."""
        known = self._known.get(name)
        return "" if known is None or known.by_hand else known.outcome

    def shown(self, link: WorkerLink) -> str:
        """Words on a worker of another build; "" for one of this build."""
        if not self._ports.workers.is_outdated(link):
            return ""
        if not link.knows(HandOver):
            return "an older release without handover: replaced when its front-end leaves"
        known = self._known.get(link.name)
        if known is not None and known.outcome:
            return f"another build: {known.outcome}"
        return "another build: to be replaced" if self._by_itself else "another build"

    def _wanted(self, port: PortSpec) -> bool:
        """Whether the worker of a port is to be replaced, now or later."""
        workers, link = self._ports.workers, self._ports.link(port.name)
        known = self._known.get(port.name, _Port())
        if link is None or not link.knows(HandOver) or port.name in workers.handovers:
            return False
        by_itself = self._by_itself and known.tried != workers.build
        return known.by_hand or (by_itself and workers.is_outdated(link))

    def _can_begin(self, port: PortSpec, now: float) -> bool:
        """Whether its worker serves its row as it is, and may be asked again."""
        link, known = self._ports.link(port.name), self._known.get(port.name, _Port())
        if link is None or link.phase is not Phase.RUNNING or link.told_to_quit:
            return False
        return now >= known.backoff.retry_at and link.spec is not None and _serves(link.spec, port)

    def _ended(self, event: HandoverEnded, now: float) -> None:
        known = self._known.setdefault(event.name, _Port())
        if event.outcome == "busy":
            known.outcome, known.backoff = f"busy: {event.why}", known.backoff.failed(now)
            self._todo.add(event.name)
            return
        known.by_hand, known.backoff = False, known.backoff.worked()
        known.tried = self._ports.workers.build
        if event.outcome == "done":
            known.outcome = f"upgraded in {1e3 * event.took:.0f} ms"
            self.errors.pop(event.name, None)
            vlog.info(f"{event.name}: its worker was replaced in {1e3 * event.took:.0f} ms")
            return
        known.outcome = f"upgrade-failed: {event.why}"
        self.errors[event.name] = known.outcome
        self._ports.faults.counters["upgrade-failed"] += 1
        vlog.warn(f"{event.name}: {known.outcome}; its worker goes on")


def _serves(has: WorkerSpec, port: PortSpec) -> bool:
    wanted = worker_spec(port)
    return replace(has, uid=wanted.uid, gid=wanted.gid) == wanted
