# SPDX-License-Identifier: Apache-2.0
"""Desired ports x actual taps and workers → what to do next. Pure; time is an argument.

Level-triggered: nothing is remembered of how a state came about, so that a daemon that starts in
the middle of anything (its own restart, a crash, an ovsdb-server that was away) goes on from what
it finds. One call plans one step for each port; what the step changes leads to the next call.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from ovs_vhost_plugin.common.backoff import Backoff
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.ipc.spec import WorkerSpec

HELLO_TIMEOUT = 10.0
"""Seconds for a worker to say hello, from its birth or from the connection to it."""

QUIT_TIMEOUT = 2.0
"""Seconds for a worker to end, once told to, or once it closed its channel."""

STUCK_TIMEOUT = 3.0
"""Seconds for the kernel to end a worker that was killed."""

FIRST_DELAY, LAST_DELAY = 0.1, 10.0
"""Seconds until a failure is tried again: doubling from the first to the last."""

RELEASE_TIMEOUT, RELEASE_POLL = 2.0, 0.02
"""Seconds that a tap may stay for a switch that has it open, and between two looks."""

ADOPTED_LINGERS = 1.0
"""Seconds that a tap stays behind its row where OVS-DPDK's types are taken over. When os-vif has
unplugged a port it looks for a network device of that name and removes it, and fails if somebody
else removes it in between."""

GOOD_AFTER = 30.0
"""A worker that lived this long (seconds) did not fail at once: its delay starts anew."""


FIRST_TRY = Backoff(FIRST_DELAY, LAST_DELAY, GOOD_AFTER)
"""Of a worker or a tap, and of the fork server, before anything has failed."""


class Phase(Enum):
    """Where a worker is in its life."""

    REQUESTED = "requested"  # the nursery was asked for it
    STARTING = "starting"  # it runs, or may run, and has not said hello
    RUNNING = "running"
    ENDING = "ending"  # told to quit, or it closed its channel
    KILLED = "killed"


@dataclass(frozen=True, slots=True)
class Observed:
    """What there is of a port. No `phase`: no worker. `since` is when the phase began.

    spec           None while it is not known what an adopted worker serves
    released_by    until when the tap stays of a port whose row is gone: the switch may have it open
    secluded       whether the host's own stack is kept away from the tap; None: not known yet
    held_until     when to try again to remove a tap that did not go
    """

    tap: bool = False
    phase: Phase | None = None
    spec: WorkerSpec | None = None
    since: float = 0.0
    retry_at: float = 0.0
    released_by: float = 0.0
    secluded: bool | None = None
    held_until: float = 0.0


@dataclass(frozen=True, slots=True)
class CreateTap:
    """Make the port's tap."""

    name: str


@dataclass(frozen=True, slots=True)
class Seclude:
    """Keep the host's own network stack away from the port's tap, or no longer."""

    name: str
    wanted: bool


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a worker; the spec's uid and gid are the executor's to fill in."""

    spec: WorkerSpec


@dataclass(frozen=True, slots=True)
class ConfigureWorker:
    """Tell a running worker the port's new settings."""

    spec: WorkerSpec


@dataclass(frozen=True, slots=True)
class QuitWorker:
    """Tell a worker to end."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker that does not listen."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Abandon:
    """Go on without a worker that was killed and does not end, and without the tap that it has."""

    name: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove all that is left of a port without a worker: its tap, sockets, records."""

    name: str


Action = CreateTap | Seclude | Spawn | ConfigureWorker | QuitWorker | Kill | Abandon | Remove


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and when to look again though nothing happened (None: never)."""

    actions: list[Action]
    wake_at: float | None


def worker_spec(port: PortSpec) -> WorkerSpec:
    """What a worker of this port is told, but for whom it runs as."""
    return WorkerSpec(port.name, port.mode, port.path, port.queues, port.settings)


def reconcile(
    desired: Mapping[str, PortSpec],
    wrong: Collection[str],
    observed: Mapping[str, Observed],
    spawn_slots: int,
    now: float,
) -> Plan:
    """Plan the next step of every port.

    wrong        names whose rows are no valid ports: nothing is started for them, and what runs
                 goes on, so that a slip of the pen does not cut off a VM
    spawn_slots  how many workers the nursery takes now
    """
    actions: list[Action] = []
    wakes: list[float] = []
    for name in sorted(desired.keys() | observed.keys()):
        port = desired.get(name)
        seen = observed.get(name, Observed())
        step = _step(name, port, name in wrong, seen, now)
        if isinstance(step, float):
            wakes.append(step)
        elif isinstance(step, Spawn):
            if spawn_slots > 0:
                spawn_slots -= 1
                actions.append(step)
        elif step is not None:
            actions.append(step)
    return Plan(actions, min(wakes, default=None))


def _step(
    name: str, port: PortSpec | None, wrong: bool, seen: Observed, now: float
) -> Action | float | None:
    """The next action of a port, or when there may be one, or None: it is as it should be."""
    if seen.phase is Phase.REQUESTED:
        return None  # the nursery answers
    if seen.phase is Phase.KILLED:
        return _deadline(seen, STUCK_TIMEOUT, now) or Abandon(name)
    if seen.phase is Phase.ENDING:
        return _deadline(seen, QUIT_TIMEOUT, now) or Kill(name, "it did not end")
    if port is None:
        return None if wrong else _take_down(name, seen, now)
    if seen.tap and seen.secluded is not port.userspace:
        # Before there is a worker, and so a guest. The kernel's bridges take no frame that the
        # host's stack is kept away from.
        return Seclude(name, port.userspace)
    if seen.phase is Phase.STARTING and seen.spec is None:
        return _deadline(seen, HELLO_TIMEOUT, now) or Kill(name, "it said no hello")
    if seen.phase is not None:
        return _adjust(port, seen, now)
    if now < seen.retry_at:
        return seen.retry_at
    return Spawn(worker_spec(port)) if seen.tap else CreateTap(name)


def _take_down(name: str, seen: Observed, now: float) -> Action | float:
    if seen.phase is not None:
        return QuitWorker(name, "the port was removed")
    if now < seen.released_by:
        # The switch is late, or it has the tap open again: then a row that has not come here yet
        # adds the port anew, and is to find this tap and not the next one.
        return min(now + RELEASE_POLL, seen.released_by)
    if now < seen.held_until:
        return seen.held_until
    return Remove(name)


def _adjust(port: PortSpec, seen: Observed, now: float) -> Action | float | None:
    """The step of a worker whose spec is known."""
    assert seen.spec is not None
    wanted, has = worker_spec(port), seen.spec
    if not seen.tap:
        return QuitWorker(port.name, "its tap is gone")
    if (wanted.mode, wanted.path, wanted.queues) != (has.mode, has.path, has.queues):
        return QuitWorker(port.name, "the port was reconfigured")
    if seen.phase is Phase.STARTING:
        return _deadline(seen, HELLO_TIMEOUT, now) or Kill(port.name, "it said no hello")
    if wanted.settings != has.settings:
        return ConfigureWorker(wanted)
    return None


def _deadline(seen: Observed, timeout: float, now: float) -> float | None:
    deadline = seen.since + timeout
    return deadline if now < deadline else None
