# SPDX-License-Identifier: Apache-2.0
"""The ports as they are: executes plans on them, and publishes their keys."""

import contextlib
import os
import socket
from collections.abc import Collection, Iterable, Mapping, Set
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any, assert_never

from ovs_vhost_plugin.common import process
from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.daemon import status
from ovs_vhost_plugin.daemon.events import Ended, Event, Heard
from ovs_vhost_plugin.daemon.handover.release import changed_settings
from ovs_vhost_plugin.daemon.options import Options
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.port_faults import PortFaults
from ovs_vhost_plugin.daemon.reconcile import (
    ADOPTED_LINGERS,
    RELEASE_TIMEOUT,
    Abandon,
    Action,
    ConfigureWorker,
    CreateTap,
    Kill,
    Observed,
    QuitWorker,
    Remove,
    Seclude,
    Spawn,
)
from ovs_vhost_plugin.daemon.sockets.listener import FrontEndListeners, ListenError
from ovs_vhost_plugin.daemon.taps.port_taps import PortTaps
from ovs_vhost_plugin.daemon.taps.seclusion import Seclusion
from ovs_vhost_plugin.daemon.workers import journals
from ovs_vhost_plugin.daemon.workers.further_queues import FurtherQueues
from ovs_vhost_plugin.daemon.workers.journals import Journals
from ovs_vhost_plugin.daemon.workers.link import WorkerLink
from ovs_vhost_plugin.daemon.workers.postcopy import Userfaultfds
from ovs_vhost_plugin.daemon.workers.uids import Uids, worker_ids
from ovs_vhost_plugin.daemon.workers.workers import Workers
from ovs_vhost_plugin.ipc.reports import AskQueues, AskUserfaultfd, PortState, WorkerHello
from ovs_vhost_plugin.ipc.spec import WorkerSpec
from ovs_vhost_plugin.tap import TapError, TapErrorName, Taps

vlog = Vlog("vhost_ports")


class Ports:
    """All ports that have a tap, a worker or anything left of them, by name.

    faults     what went wrong last, and when it is tried again
    taps       the ports' taps
    seclusion  the ports that are kept from the host's own network stack
    """

    def __init__(
        self,
        workers: Workers,
        taps: Taps,
        thread: Executor,
        seclusion: Seclusion,
        state: StateDir,
        options: Options,
        listeners: FrontEndListeners,
        uids: Uids,
    ) -> None:
        self.workers = workers
        self.seclusion = seclusion
        self.faults = PortFaults()
        self.taps = PortTaps(taps, thread, self.faults.note, self.faults.counters)
        self._state = state
        self._options = options
        self._userfaultfds = Userfaultfds()
        self._further = FurtherQueues(taps)
        self._listeners = listeners
        self._uids = uids
        self._known: set[str] = set()
        self._journals = Journals(state)
        self._gone_since: dict[str, float] = {}
        self._told: dict[str, PortState] = {}  # port: the state that was logged last

    def __len__(self) -> int:
        return len(self._known)

    def adopt(self, now: float) -> None:
        """Adopt the ports of an earlier daemon."""
        self._known |= self._state.ports()
        self.taps.adopt(sorted(self._known))
        self.workers.adopt(now)

    def let_go(self, now: float) -> None:
        """Forget all ports without touching them: they are another daemon's now."""
        self.workers.forget_all()
        self.seclusion.let_go()
        self.taps.let_go(now)
        self._known.clear()
        self._journals.clear()
        self._told.clear()
        self.faults.clear()

    @property
    def names(self) -> Set[str]:
        """The names of all ports."""
        return self._known

    def look_again(self, names: Iterable[str]) -> None:
        """Forget the observed state of these ports' taps: something changed outside."""
        for name in names:
            self.taps.look_again(name)

    def link(self, name: str) -> WorkerLink | None:
        """The link to a port's worker."""
        return self.workers.links.get(name)

    # -- the loop --------------------------------------------------------------------------------

    def run(self, now: float) -> list[str]:
        """Take what has become of taps; return the ports' names."""
        return self.taps.run(now)

    def wait(self, poller: Any) -> None:
        """Register what `run` and the workers' `run` have to be called for."""
        self.taps.wait(poller)
        self.workers.wait(poller)

    def close(self) -> None:
        """Leave all ports as they are; the workers go on."""
        self.taps.close()
        self.workers.close()

    # -- the workers' news -----------------------------------------------------------------------

    def take(self, events: Iterable[Event], desired: Mapping[str, PortSpec], now: float) -> None:
        """Handle the workers' reports and ends."""
        for event in events:
            match event:
                case Heard(name, AskUserfaultfd()):
                    if link := self.link(name):
                        self._userfaultfds.answer(link, desired.get(name), now)
                case Heard(name, AskQueues(queues)):
                    if link := self.link(name):
                        self._further.answer(link, queues, now)
                case Heard(name, WorkerHello() as hello):
                    self._hello(name, hello, now)
                case Heard(name, PortState() as state):
                    self._state_told(name, state)
                case Ended(name, fault, lived):
                    self._ended(name, fault, lived, now)

    def _hello(self, name: str, hello: WorkerHello, now: float) -> None:
        self._journals.uses(name, hello.spec.path)
        self._further.hello(name, hello.tap_queues)
        self.faults.worker_came(name)
        if self.taps.holders.beside(name, hello.tap_queues) and (link := self.link(name)):
            link.quit(now)  # the tap is made anew before the next worker

    def _state_told(self, name: str, state: PortState) -> None:
        """Log the changes of a state; its rate is limited (report_rates.py)."""
        told = self._told.get(name)
        if told is None or told.status != state.status:
            vlog.info(f"{name}: {state.status}")
        if state.error and (told is None or told.errors != state.errors):
            vlog.warn(f"{name}: {state.error_text} (errors so far: {state.errors})")
        self._told[name] = state
        if state.status in ("connected", "running"):
            self.faults.guest_came(name)

    def _ended(self, name: str, fault: str, lived: float, now: float) -> None:
        self.taps.look_again(name)
        self._told.pop(name, None)
        self._further.forget(name)
        self._listeners.unlink(name)
        if fault:
            self.faults.note(name, fault, now, lived=lived, crash=True)
        else:
            vlog.info(f"{name}: worker ended")

    # -- the actual state ------------------------------------------------------------------------

    def observe(
        self, names: Iterable[str], rows: Collection[str], now: float
    ) -> dict[str, Observed]:
        """The actual state of those of `names` that are ports. `rows` names all Interface rows."""
        known = (name for name in names if name in self._known)
        return {name: self._observe(name, name not in rows, now) for name in known}

    def _observe(self, name: str, gone: bool, now: float) -> Observed:
        if self.taps.is_changing(name):
            return Observed(changing=True)
        index = self.taps.seen(name)
        tap = index is not None
        secluded = None if index is None else self.seclusion.of(name, index)
        link = self.link(name)
        if link is not None:
            outdated = self._options.upgrade_workers and self.workers.is_dispensable(link)
            told = tap, link.phase, link.spec, link.since
            return Observed(*told, secluded=secluded, outdated=outdated)
        retry_at = self.faults.retry_at(name)
        held_until = retry_at if self._is_held(name) else 0.0
        released_by = self._released_by(name, gone, now)
        return Observed(tap, None, None, 0.0, retry_at, released_by, secluded, held_until)

    def _is_held(self, name: str) -> bool:
        """Whether the port's tap was to be removed and stays."""
        return self.faults.of(name).startswith(f"{TapErrorName.HELD}: ")

    def _released_by(self, name: str, gone: bool, now: float) -> float:
        if not gone:
            self._gone_since.pop(name, None)
            return now
        lingers = ADOPTED_LINGERS if self._options.adopt_dpdk_types else 0.0
        stays = RELEASE_TIMEOUT if self.taps.is_open_in_switch(name) else lingers
        return self._gone_since.setdefault(name, now) + stays

    # -- actions ---------------------------------------------------------------------------------

    def execute(self, action: Action, now: float) -> None:
        """Execute one step of a plan; a failure becomes the port's fault."""
        match action:
            case CreateTap(name):
                self._known.add(name)
                self.taps.make(name)
            case Seclude(name, wanted):
                self.taps.look_again(name)
                if (index := self.taps.seen(name)) is not None:
                    self.seclusion.apply(name, index, wanted)
            case Spawn(spec):
                self._spawn(spec, now)
            case ConfigureWorker(spec):
                if link := self.link(spec.name):
                    vlog.info(f"{spec.name}: {changed_settings(link.spec, spec)}")
                    link.configure(spec.settings, now)
            case QuitWorker(name, reason):
                vlog.info(f"{name}: ending its worker: {reason}")
                if link := self.link(name):
                    link.quit(now)
            case Kill(name, reason):
                vlog.warn(f"{name}: killing its worker: {reason}")
                if link := self.link(name):
                    link.kill(reason, now)
            case Abandon(name):
                self._abandon(name, now)
            case Remove(name):
                self._remove(name)
            case _:
                assert_never(action)

    def _abandon(self, name: str, now: float) -> None:
        """Take a port from its stuck worker, with its tap and records."""
        link = self.link(name)
        self.workers.abandon(name)
        self._told.pop(name, None)
        self._listeners.unlink(name)

        def stays(error: TapError, _now: float) -> None:
            vlog.warn(f"{name}: tap not removed: {error}")

        # The worker holds the tap open: the next one gets another tap.
        self.taps.remove(name, lambda _: None, stays)
        pid = "" if link is None or link.pid is None else f" (pid {link.pid})"
        fault = f"worker-stuck: the kernel does not end the killed worker{pid}"
        self.faults.note(name, fault, now, crash=True)

    def _spawn(self, spec: WorkerSpec, now: float) -> None:
        self._journals.uses(spec.name, spec.path)
        try:
            tap = self.taps.open_first(spec.name)
            if tap is None:
                return
            with contextlib.ExitStack() as stack:
                stack.callback(os.close, tap)
                uid, gid = worker_ids(self._options, self._uids)
                spec = replace(spec, uid=uid, gid=gid)
                front_end = self._listener(spec)
                if front_end is not None:
                    stack.callback(self._listeners.discard, front_end)
                journal = journals.renew(self._state.journal(spec.path), 2 * spec.queues)
                stack.callback(os.close, journal)
                process.require_fds(journal)
                self.workers.spawn(spec, front_end, journal, tap, now)
                if front_end is not None and self.link(spec.name) is not None:
                    front_end.close()  # never the last close: the fork server has a copy
        except (TapError, ListenError) as error:
            self.faults.note(spec.name, str(error), now)
        except OSError as error:
            why = process.fds_exhausted(error) or f"worker-not-started: {error.strerror}"
            self.faults.note(spec.name, why, now)
        else:
            vlog.info(f"{spec.name}: starting a worker: {spec.mode} {spec.path}")

    def _listener(self, spec: WorkerSpec) -> socket.socket | None:
        self._listeners.unlink(spec.name)
        if spec.mode != "server":
            return None
        owner, mode = self._options.sock_owner, self._options.sock_mode
        return self._listeners.listen(spec.name, Path(spec.path), owner, mode)

    def _remove(self, name: str) -> None:
        self._listeners.unlink(name)
        self.taps.remove(name, lambda _: self._removed(name))

    def _removed(self, name: str) -> None:
        self.seclusion.forget(name)
        self._state.forget(name)
        self._known.discard(name)
        self._gone_since.pop(name, None)
        self._journals.forget(name, self._known)
        self.taps.forget(name)
        self.faults.forget(name)
        vlog.info(f"{name}: removed")

    # -- status keys -----------------------------------------------------------------------------

    def keys(self, port: PortSpec) -> dict[str, str] | None:
        """The external_ids of a port; None while they are unknown."""
        fault = self.faults.of(port.name)
        link = self.link(port.name)
        if link is None:
            fault = fault or self.workers.broken
            return status.of_error(fault) if fault else status.of_starting(port.path, "")
        if link.told_to_quit:
            return status.of_starting(port.path, fault)  # the next worker starts when it has ended
        if link.state is None:
            return status.of_starting(port.path, fault) if link.child else None
        return status.of_state(link.state, fault)

    def leftovers(self, desired: Collection[str]) -> dict[str, str]:
        """The ports that are to go and cannot, with the obstacles."""
        gone = sorted(self._known - set(desired))
        return {name: self.faults.of(name) for name in gone if self._is_held(name)}

    def keys_of_wrong(self, name: str, error: str) -> dict[str, str]:
        """The external_ids of an invalid row; the worker of an earlier, valid row may run."""
        link = self.link(name)
        if link is None or link.state is None:
            return status.of_error(error)
        return {**status.of_state(link.state, error), status.ERROR: error}
