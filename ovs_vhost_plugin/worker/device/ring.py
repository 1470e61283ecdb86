# SPDX-License-Identifier: Apache-2.0
"""One vring: its phase, where it resumes, and its record for the compiled loop.

While the loop runs, it alone writes the record. Everything here is done while the loop is stopped,
but for reading a fault or a missing translation.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from types import MappingProxyType

import numpy as np

from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.recovery.resume import resume, stands_at_base
from ovs_vhost_plugin.jit.ring import iotlb
from ovs_vhost_plugin.jit.syscalls import read_event
from ovs_vhost_plugin.vhost.fds.kind import is_eventfd
from ovs_vhost_plugin.vhost.spec import IotlbAccess
from ovs_vhost_plugin.worker.device.vringconfig import (
    Kind,
    PairConfig,
    Start,
    VringConfig,
    Words,
    empty_record,
    ring_record,
)
from ovs_vhost_plugin.worker.recovery import inflight
from ovs_vhost_plugin.worker.recovery import journal as journals
from ovs_vhost_plugin.worker.recovery.tracking import DamagedError, Tracking


class RingPhase(Enum):
    """Where a ring is in its life; `NEXT` has the ways from one phase to another."""

    IDLE = auto()
    """It has not been started since it was last stopped (vhost-user "Ring states")."""
    WAITING = auto()
    """Its addresses need a translation that the front-end has not given yet."""
    RUNNING = auto()
    """The compiled loop serves it."""
    PAUSED = auto()
    """It stands still for a change, or for something that the front-end sets up anew."""
    UNUSABLE = auto()
    """The front-end's set-up cannot be used, and an error has said why."""
    BROKEN = auto()
    """A fault has ended it, until it is stopped."""


NEXT = MappingProxyType(
    {
        RingPhase.IDLE: {RingPhase.RUNNING, RingPhase.WAITING},
        RingPhase.WAITING: {RingPhase.RUNNING, RingPhase.UNUSABLE},
        RingPhase.RUNNING: {RingPhase.PAUSED, RingPhase.BROKEN},
        RingPhase.PAUSED: {
            RingPhase.RUNNING,
            RingPhase.WAITING,
            RingPhase.UNUSABLE,
            RingPhase.BROKEN,
        },
        RingPhase.UNUSABLE: {RingPhase.RUNNING, RingPhase.WAITING},
        RingPhase.BROKEN: set[RingPhase](),
    }
)
"""The phases that may follow each; IDLE may follow any, by `stop`."""

_USABLE = (RingPhase.WAITING, RingPhase.RUNNING, RingPhase.PAUSED)


class Ring:
    """Vring `index`; `journal` outlives this process (`recovery/journal.py`)."""

    def __init__(self, index: int, journal: Words) -> None:
        self.index = index
        self.kind: Kind = "tx" if index % 2 else "rx"  # virtio 1.2, 5.1.2
        self.phase = RingPhase.IDLE
        self.position: int | None = None
        """Where it resumes: the index (packed: position) of the first chain not given back.

        None: it has not been started.
        """
        self.began: int | None = None
        """Where it began, since all rings of the port were last idle."""
        self.kicks_before: int | None = None
        """The kicks counted for it before it was started; None: it has not been started."""
        self.call_first = True
        """Whether its driver is called when it resumes: calls may have gone to another eventfd."""
        self.queue = fresh.new_queue()
        self.state = np.zeros(1, layout.RING_DTYPE)
        self.journal = journal
        self.journal_kept: bool | None = None
        """Whether the journal outlives this process; None: it is not known before the first start.

        Without room in the run directory the ring has a journal that does not.
        """
        self._tracking: Tracking | None = None  # held while the loop runs

    def __repr__(self) -> str:
        """As "vring 0 RUNNING split/256 avail=17 used=12 held=5"."""
        name = f"vring {self.index} {self.phase.name}"
        state = self.state[0]
        if self.position is None or not state["size"]:
            return name
        form = "packed" if state["packed"] else "split"
        held = int(self.queue.state["count"][0])
        return (
            f"{name} {form}/{state['size']} "
            f"avail={state['next_pop']} used={state['next_used']} held={held}"
        )

    @property
    def fill(self) -> tuple[int, int]:
        """Its size, and the descriptors (split: chains) that the loop has seen and not given back.

        Neither memory of the guest's nor the loop is touched: the guest may have made more
        available since the loop last looked. (0, 0) while the ring does not run.
        """
        state = self.state[0]
        if self.phase is not RingPhase.RUNNING or not (size := int(state["size"])):
            return 0, 0
        # In this order: the loop may move both meanwhile, and the second is never behind the first.
        begin = int(state["next_avail"])
        end = int(state["next_pop" if state["packed"] else "avail_idx"])
        around = 2 * size if state["packed"] else 1 << 16
        return size, min((end - begin) % around, size)

    # -- phases ----------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether it runs, or has run and will run again: the tap keeps frames for it."""
        return self.position is not None and self.phase in _USABLE

    def wait(self) -> None:
        """Wait for a translation."""
        self._enter(RingPhase.WAITING)

    def take_over(self, position: int, began: int | None) -> None:
        """Stand still at `position`: another process has run it up to there."""
        assert self.phase is RingPhase.IDLE
        self.phase, self.position, self.began = RingPhase.PAUSED, position, began
        self.state["next_avail"] = position

    def reject(self) -> None:
        """Do not run by the front-end's present set-up, which has an error."""
        self._enter(RingPhase.IDLE if self.position is None else RingPhase.UNUSABLE)

    def pause(self) -> None:
        """Note where it resumes: the loop has ended."""
        if self.position is not None and self.phase is not RingPhase.UNUSABLE:
            self.position = int(self.state["next_avail"][0])
        self._tracking = None
        if self.phase is RingPhase.RUNNING:
            self._enter(RingPhase.PAUSED)

    def stop(self) -> None:
        """Forget where it was: the next start is the front-end's. Its journal stays."""
        self._enter(RingPhase.IDLE)
        self.position = self.kicks_before = None
        self.state["fault"] = 0

    def take_fault(self) -> Fault | None:
        """The fault that broke it, once."""
        fault = int(self.state["fault"][0])
        if not fault or self.phase is RingPhase.BROKEN:
            return None
        self._enter(RingPhase.BROKEN)
        return Fault(fault)

    def miss(self) -> tuple[int, IotlbAccess] | None:
        """The IOVA whose translation the loop waits for, and the access; None: it does not."""
        state = self.queue.state[0]
        if not state["iotlb_asked"]:
            return None
        written = self.kind == "rx" and state["iotlb_asked"] == iotlb.BUFFER
        access = IotlbAccess.WRITE if written else IotlbAccess.READ
        return int(state["iotlb_missed"]), access

    def _enter(self, phase: RingPhase) -> None:
        allowed = phase in (self.phase, RingPhase.IDLE) or phase in NEXT[self.phase]
        assert allowed, f"{self!r}: no way to {phase.name}"
        self.phase = phase

    # -- the record ------------------------------------------------------------------------------

    def prepare(
        self, vring: VringConfig | None, config: PairConfig, net: layout.Net
    ) -> layout.Vring:
        """The loop's record of the ring as `vring` says; without entries if there is no vring.

        If the journal names the ring, the ring resumes where the journal says. A ring that cannot
        begin has a fault.
        """
        fresh.empty(self.queue)
        if config.iommu:
            iotlb.look_up(self.queue, config.regions, writes=self.kind == "rx")
        if vring is None:
            return empty_record(self.state, self.journal)
        self._enter(RingPhase.RUNNING)
        if self.journal_kept is None:
            self.journal_kept = journals.reserve(self.journal)
            if not self.journal_kept:
                self.journal = journals.fresh()
        vring = self._recover(vring, config, net)
        self.position = vring.next_avail
        record = self._record(vring, config)
        self.state["call_first"], self.call_first = self.call_first, False
        self._check_eventfds(net)
        try:
            self._tracking = self._track(record, vring, config, net)
        except DamagedError as error:
            self._break(error.fault, net)
        if self.state["packed"][0] and not config.pages_missing and not stands_at_base(record):
            self._break(Fault.BASE_STALE, net)
        journals.begin(record, vring.identity)
        return record

    def hand_over(
        self, vring: VringConfig, config: PairConfig, net: layout.Net, *, keep: bool
    ) -> int:
        """Leave nothing in flight in the stopped ring; return where it resumes.

        With `keep`, chains may stay in flight (vhost-user VHOST_USER_GET_VRING_BASE).
        """
        record = self._record(vring, config)
        try:
            tracking = self._track(record, vring, config, net)
        except DamagedError:
            return vring.next_avail
        assert tracking is not None
        return tracking.hand_over(keep=keep)

    def end_journal(self) -> None:
        """Make the journal name no ring: the next start is at a place that is given."""
        journals.end(self.journal)

    def unblock(self) -> None:
        """Free a loop that a peer blocks in a write, by an eventfd counted up to its limit.

        The peer has the same fds, so it can make them blocking again.
        """
        scratch = np.zeros(6, np.int64)
        for name in ("call_fd", "err_fd"):
            if self.state[name][0] >= 0:
                read_event(int(self.state[name][0]), scratch)

    def _record(self, vring: VringConfig, config: PairConfig) -> layout.Vring:
        return ring_record(self.kind, vring, config, self.state, self.journal)

    def _recover(self, vring: VringConfig, config: PairConfig, net: layout.Net) -> VringConfig:
        """`vring`, to resume where the journal says, if the journal names this ring.

        Chains that the journal has begun are given back first.
        """
        if vring.start is not Start.FRONT_END or not journals.names(self.journal, vring.identity):
            return vring
        record = self._record(vring, config)
        try:
            tracking = self._track(record, vring, config, net)
        except DamagedError:
            return vring  # the ring will not begin
        at = resume(record, config.memory(self.kind), net)
        del tracking  # holds the region's views until here
        if at < 0:
            self.end_journal()
            return vring
        return replace(vring, next_avail=at, start=Start.JOURNAL)

    def _track(
        self, record: layout.Vring, vring: VringConfig, config: PairConfig, net: layout.Net
    ) -> Tracking | None:
        """Track the chains in flight in the front-end's region, if any. Raises DamagedError."""
        if vring.inflight is None:
            return None
        return inflight.track(record, vring.inflight, config.memory(self.kind), net)

    def _check_eventfds(self, net: layout.Net) -> None:
        """Break a ring whose fds could block the loop for ever, or always be ready."""
        for name, fault in (
            ("kick_fd", Fault.KICK_NOT_EVENTFD),
            ("call_fd", Fault.CALL_NOT_EVENTFD),
            ("err_fd", Fault.CALL_NOT_EVENTFD),
        ):
            fd = int(self.state[name][0])
            if fd >= 0 and not is_eventfd(fd):
                self.state[name] = -1
                self._break(fault, net)
            elif fd >= 0 and name != "kick_fd":
                os.set_blocking(fd, False)

    def _break(self, fault: Fault, net: layout.Net) -> None:
        """Keep the ring from beginning, by `fault`; the worker is told of it."""
        self.state["fault"] = fault
        net.faults[fault] += 1
        os.eventfd_write(int(net.state["cfg_fault_fd"][0]), 1)


@dataclass(frozen=True, slots=True)
class Begun:
    """The news of a start of rings, as `OnStart` takes them."""

    base: int
    further: bool


def begin(rings: Sequence[Ring], every: Sequence[Ring]) -> Begun | None:
    """Record where `rings` begin that have not run since all stood still; None tells nothing new.

    A front-end sets up one ring after the other, and a guest may have used only some of them. So a
    first ring at zero does not show that the guest has used none. `every`: those of all pairs.
    """
    before = [ring.began for ring in every if ring.began is not None]
    for ring in rings:
        if ring.began is None:
            ring.began = ring.position
    base = max([*before, *(ring.began or 0 for ring in rings)])
    return Begun(base, bool(before)) if not before or base > max(before) == 0 else None
