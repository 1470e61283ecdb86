# SPDX-License-Identifier: Apache-2.0
"""Desired ports x actual taps and workers → what to do next. Pure; time is an argument.

Level-triggered: the history of a state does not count. So a daemon that starts in the middle of
anything (its own restart, a crash, an ovsdb-server that was away) goes on from the state that it
finds. One call plans one step for each port; the step's changes lead to the next call.
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
"""Seconds for a worker to end after it was told to, or closed its channel."""

STUCK_TIMEOUT = 3.0
"""Seconds for the kernel to end a worker that was killed."""

FIRST_DELAY, LAST_DELAY = 0.1, 10.0
"""Seconds until the next try after a failure; they double from the first to the last."""

RELEASE_TIMEOUT, RELEASE_POLL = 2.0, 0.02
"""Seconds that a tap may stay because the switch has it open, and between two looks."""

ADOPTED_LINGERS = 1.0
"""Seconds that a tap outlives its row when OVS-DPDK's types are taken over.

After os-vif has unplugged a port, it looks for a network device of that name and removes it, and
fails if somebody else removes it in between."""

GOOD_AFTER = 30.0
"""A worker that lived this long (seconds) has worked: the next delay starts anew."""


OUTDATED = "it is of another release, and serves nobody"
"""The reason to end a worker for which another one takes its place."""

FIRST_TRY = Backoff(FIRST_DELAY, LAST_DELAY, GOOD_AFTER)
"""The back-off of a worker, a tap or the fork server before any failure."""


class Phase(Enum):
    """The phase of a worker's life."""

    REQUESTED = "requested"  # the fork server was asked for it
    STARTING = "starting"  # it runs, or may run, and has not sent its hello
    RUNNING = "running"
    ENDING = "ending"  # told to quit, or it closed its channel
    KILLED = "killed"


@dataclass(frozen=True, slots=True)
class Observed:
    """The actual state of a port. No `phase`: no worker. The phase began at `since`.

    spec           the worker's spec; None while that of an adopted worker is unknown
    released_by    the time until which a tap outlives its row: the switch may have it open
    secluded       whether the host's own stack is kept away from the tap; None: unknown
    held_until     the time of the next try to remove a tap that stayed
    outdated       whether the worker is of another build, and nobody would miss it
    changing       whether the tap is being made or removed
    """

    tap: bool = False
    phase: Phase | None = None
    spec: WorkerSpec | None = None
    since: float = 0.0
    retry_at: float = 0.0
    released_by: float = 0.0
    secluded: bool | None = None
    held_until: float = 0.0
    outdated: bool = False
    changing: bool = False


@dataclass(frozen=True, slots=True)
class CreateTap:
    """Make the port's tap."""

    name: str


@dataclass(frozen=True, slots=True)
class Seclude:
    """Keep the host's own network stack away from the port's tap, or end that."""

    name: str
    wanted: bool


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a worker; the executor fills in the spec's uid and gid."""

    spec: WorkerSpec


@dataclass(frozen=True, slots=True)
class ConfigureWorker:
    """Send a running worker the port's new settings."""

    spec: WorkerSpec


@dataclass(frozen=True, slots=True)
class QuitWorker:
    """Tell a worker to end."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill a worker that does not quit."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Abandon:
    """Give up a worker that was killed and does not end, with the tap that it holds."""

    name: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove the rest of a port without a worker: its tap, sockets, records."""

    name: str


Action = CreateTap | Seclude | Spawn | ConfigureWorker | QuitWorker | Kill | Abandon | Remove


@dataclass(frozen=True, slots=True)
class Plan:
    """The next steps of some ports.

    actions   to execute now; a port with an action has to be planned again after it
    wakes     ports to look at again at a time, if nothing happens to them before
    waiting   ports whose worker has to wait for a slot
    """

    actions: list[Action]
    wakes: dict[str, float]
    waiting: list[str]


def worker_spec(port: PortSpec) -> WorkerSpec:
    """The spec of a worker of this port, without uid and gid."""
    return WorkerSpec(port.name, port.mode, port.path, port.queues, port.settings)


def reconcile(
    desired: Mapping[str, PortSpec],
    wrong: Collection[str],
    observed: Mapping[str, Observed],
    spawn_slots: int,
    now: float,
) -> Plan:
    """Plan the next step of every port of `desired` and `observed`.

    wrong        names of invalid rows: nothing is started for them, and their workers run on, so
                 that a slip of the pen does not cut off a VM
    spawn_slots  the number of workers that the fork server takes now
    """
    actions: list[Action] = []
    wakes: dict[str, float] = {}
    waiting: list[str] = []
    for name in sorted(desired.keys() | observed.keys()):
        port = desired.get(name)
        seen = observed.get(name, Observed())
        step = _step(name, port, name in wrong, seen, now)
        if isinstance(step, float):
            wakes[name] = step
        elif isinstance(step, Spawn) or step == QuitWorker(name, OUTDATED):
            if spawn_slots > 0:
                spawn_slots -= 1
                actions.append(step)
            else:
                waiting.append(name)
        elif step is not None:
            actions.append(step)
    return Plan(actions, wakes, waiting)


def _step(
    name: str, port: PortSpec | None, wrong: bool, seen: Observed, now: float
) -> Action | float | None:
    """The next action of a port, or the time when there may be one; None: nothing to do."""
    if seen.changing:
        return None  # its end touches the port
    if seen.phase is Phase.REQUESTED:
        return None  # the fork server will answer
    if seen.phase is Phase.KILLED:
        return _deadline(seen, STUCK_TIMEOUT, now) or Abandon(name)
    if seen.phase is Phase.ENDING:
        return _deadline(seen, QUIT_TIMEOUT, now) or Kill(name, "it did not end")
    if port is None:
        return None if wrong else _take_down(name, seen, now)
    if seen.tap and seen.secluded is not port.userspace:
        # Before there is a worker, and so a guest. The kernel's bridges take no frames of a tap
        # that the host's stack is kept away from.
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
        # The switch is late, or it has the tap open again. Then a row that has not come here yet
        # adds the port anew, and has to find this tap and not another one.
        return min(now + RELEASE_POLL, seen.released_by)
    if now < seen.held_until:
        return seen.held_until
    return Remove(name)


def _adjust(port: PortSpec, seen: Observed, now: float) -> Action | float | None:
    """The next step of a worker whose spec is known."""
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
    return QuitWorker(port.name, OUTDATED) if seen.outdated else None


def _deadline(seen: Observed, timeout: float, now: float) -> float | None:
    deadline = seen.since + timeout
    return deadline if now < deadline else None
