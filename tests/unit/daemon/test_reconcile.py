# SPDX-License-Identifier: Apache-2.0
"""The plan for every state, and that plans converge from any."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.daemon.ports import PORT, SPEC

from ovs_vhost_plugin.common.backoff import Backoff
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.reconcile import (
    FIRST_TRY,
    HELLO_TIMEOUT,
    OUTDATED,
    QUIT_TIMEOUT,
    RELEASE_POLL,
    STUCK_TIMEOUT,
    Abandon,
    Action,
    ConfigureWorker,
    CreateTap,
    Kill,
    Observed,
    Phase,
    QuitWorker,
    Remove,
    Seclude,
    Spawn,
    reconcile,
    worker_spec,
)
from ovs_vhost_plugin.ipc.spec import PortSettings, WorkerSpec

NOW = 1000.0


def plan(
    port: PortSpec | None, seen: Observed | None, *, wrong: bool = False, slots: int = 1
) -> tuple[list[Action], float | None]:
    desired = {} if port is None else {"vhu0": port}
    observed = {} if seen is None else {"vhu0": seen}
    made = reconcile(desired, {"vhu0"} if wrong else (), observed, slots, NOW)
    return made.actions, made.wakes.get("vhu0")


def running(spec: WorkerSpec = SPEC, **fields: object) -> Observed:
    seen = Observed(True, Phase.RUNNING, spec, NOW - 60, secluded=True)
    return replace(seen, **fields)  # type: ignore[arg-type]


def test_workers_that_serve_nobody_are_replaced_as_slots_allow() -> None:
    names = [f"vhu{n}" for n in range(5)]
    desired = {name: replace(PORT, name=name, path=f"/{name}") for name in names}
    seen = {name: running(worker_spec(port), outdated=True) for name, port in desired.items()}
    for slots in (0, 1, 3, 9):
        plan = reconcile(desired, (), seen, slots, NOW)
        assert plan.actions == [QuitWorker(name, OUTDATED) for name in names[:slots]]
        assert plan.waiting == names[slots:]


@pytest.mark.parametrize(
    ("seen", "action"),
    [
        (None, CreateTap("vhu0")),
        (Observed(tap=True), Seclude("vhu0", True)),
        (Observed(tap=True, secluded=False), Seclude("vhu0", True)),
        (running(secluded=False), Seclude("vhu0", True)),
        (running(phase=Phase.STARTING, spec=None, secluded=None), Seclude("vhu0", True)),
        (Observed(tap=True, secluded=True), Spawn(SPEC)),
        (running(tap=False), QuitWorker("vhu0", "its tap is gone")),
        (running(replace(SPEC, path="/b")), QuitWorker("vhu0", "the port was reconfigured")),
        (running(replace(SPEC, mode="server")), QuitWorker("vhu0", "the port was reconfigured")),
        (running(replace(SPEC, queues=1)), QuitWorker("vhu0", "the port was reconfigured")),
        (running(replace(SPEC, settings=replace(SPEC.settings, mtu=9000))), ConfigureWorker(SPEC)),
        (
            running(phase=Phase.STARTING, spec=None, since=NOW - HELLO_TIMEOUT),
            Kill("vhu0", "it said no hello"),
        ),
        (
            running(phase=Phase.STARTING, since=NOW - HELLO_TIMEOUT),
            Kill("vhu0", "it said no hello"),
        ),
        (running(phase=Phase.ENDING, since=NOW - QUIT_TIMEOUT), Kill("vhu0", "it did not end")),
        (running(phase=Phase.KILLED, since=NOW - STUCK_TIMEOUT), Abandon("vhu0")),
    ],
)
def test_the_step_towards_a_port(seen: Observed | None, action: Action) -> None:
    assert plan(PORT, seen) == ([action], None)


@pytest.mark.parametrize(
    ("seen", "wake_at"),
    [
        (running(), None),
        # As another user than would be chosen now: it serves, so it stays.
        (running(replace(SPEC, uid=7, gid=7)), None),
        (running(phase=Phase.REQUESTED), None),
        (running(phase=Phase.KILLED, since=NOW), NOW + STUCK_TIMEOUT),
        (running(phase=Phase.STARTING, since=NOW), NOW + HELLO_TIMEOUT),
        (running(phase=Phase.STARTING, since=NOW, spec=None), NOW + HELLO_TIMEOUT),
        (running(phase=Phase.ENDING, since=NOW), NOW + QUIT_TIMEOUT),
        (Observed(retry_at=NOW + 3), NOW + 3),
        (Observed(tap=True, retry_at=NOW + 3, secluded=True), NOW + 3),
    ],
)
def test_what_is_waited_for(seen: Observed, wake_at: float | None) -> None:
    assert plan(PORT, seen) == ([], wake_at)


def test_a_port_that_is_gone_is_taken_down() -> None:
    assert plan(None, running())[0] == [QuitWorker("vhu0", "the port was removed")]
    assert plan(None, Observed(tap=True))[0] == [Remove("vhu0")]
    # Nothing to wait for that is not wanted any more,
    assert plan(None, Observed(retry_at=NOW + 9))[0] == [Remove("vhu0")]
    # but for a switch that has the tap open.
    assert plan(None, Observed(tap=True, released_by=NOW + 1)) == ([], NOW + RELEASE_POLL)
    assert plan(None, Observed(tap=True, released_by=NOW))[0] == [Remove("vhu0")]
    wanted_again = Observed(tap=True, released_by=NOW + 1, secluded=True)
    assert plan(PORT, wanted_again)[0] == [Spawn(SPEC)]
    # What did not go is tried again later, and is no hurry for what was wanted.
    held = Observed(tap=True, held_until=NOW + 3)
    assert plan(None, held) == ([], NOW + 3)
    assert plan(None, replace(held, held_until=NOW))[0] == [Remove("vhu0")]


def test_the_host_s_stack_is_kept_from_taps_of_userspace_bridges_alone() -> None:
    kernel = replace(PORT, userspace=False)
    seen = Observed(tap=True)
    assert plan(kernel, seen)[0] == [Seclude("vhu0", False)]
    assert plan(kernel, replace(seen, secluded=False))[0] == [Spawn(worker_spec(kernel))]
    # The port was moved to a bridge of the other kind.
    assert plan(kernel, running(worker_spec(kernel)))[0] == [Seclude("vhu0", False)]
    assert plan(kernel, running(worker_spec(kernel), secluded=False)) == ([], None)


@pytest.mark.parametrize("seen", [None, Observed(tap=True), running(), running(tap=False)])
def test_a_row_that_is_wrong_changes_nothing(seen: Observed | None) -> None:
    assert plan(None, seen, wrong=True) == ([], None)


def test_no_more_are_spawned_than_the_fork_server_takes() -> None:
    ports = {f"vhu{i}": replace(PORT, name=f"vhu{i}") for i in range(5)}
    taps = dict.fromkeys(ports, Observed(tap=True, secluded=True))
    made = reconcile(ports, (), taps, 2, NOW)
    assert [type(action) for action in made.actions] == [Spawn, Spawn]


def test_failures_are_retried_ever_more_slowly() -> None:
    backoff, delays = FIRST_TRY, []
    for _ in range(9):
        backoff = backoff.failed(NOW)
        delays.append(round(backoff.retry_at - NOW, 3))
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert backoff.failed(NOW, lived=31.0).delay == 0.1
    assert backoff.failed(NOW, lived=30.0).delay == 0.1
    assert backoff.failed(NOW, lived=29.0).delay == 10.0


@dataclass
class World:
    """A plain model of what actions do, with workers that obey or not, and failures."""

    desired: dict[str, PortSpec]
    observed: dict[str, Observed]
    deaf: frozenset[str]
    failures: int  # how many more taps or spawns fail
    now: float = NOW
    backoffs: dict[str, Backoff] = field(default_factory=dict)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            made = reconcile(self.desired, (), self.observed, 2, self.now)
            for action in made.actions:
                self.execute(action)
            moved = self.time_passes()
            if not made.actions and not moved:
                if not made.wakes:
                    return
                # A plan that wakes for nothing would make a daemon spin.
                assert min(made.wakes.values()) > self.now
                self.now = min(made.wakes.values())
        raise AssertionError(f"no end: {self.observed}")

    def execute(self, action: Action) -> None:
        match action:
            case CreateTap(name):
                if not self.fails(name):
                    self.observed[name] = replace(self.seen(name), tap=True)
            case Seclude(name, wanted):
                assert self.seen(name).tap
                self.observed[name] = replace(self.seen(name), secluded=wanted)
            case Spawn(spec):
                seen = self.seen(spec.name)
                assert seen.tap and seen.phase is None and seen.secluded
                if not self.fails(spec.name):
                    new = Observed(True, Phase.REQUESTED, spec, self.now, secluded=True)
                    self.observed[spec.name] = new
            case ConfigureWorker(spec):
                self.observed[spec.name] = replace(self.seen(spec.name), spec=spec)
            case QuitWorker(name, _):
                assert self.seen(name).phase in (Phase.STARTING, Phase.RUNNING)
                self.enter(name, Phase.ENDING)
            case Kill(name, _):
                self.enter(name, Phase.KILLED)
            case Remove(name):
                assert self.seen(name).phase is None
                del self.observed[name]

    def seen(self, name: str) -> Observed:
        return self.observed.get(name, Observed())

    def enter(self, name: str, phase: Phase) -> None:
        self.observed[name] = replace(self.seen(name), phase=phase, since=self.now)

    def fails(self, name: str) -> bool:
        if not self.failures:
            return False
        self.failures -= 1
        backoff = self.backoffs.get(name, FIRST_TRY).failed(self.now)
        self.backoffs[name] = backoff
        self.observed[name] = replace(self.seen(name), retry_at=backoff.retry_at)
        return True

    def time_passes(self) -> bool:
        """The fork server answers, workers say hello or end; whether anything happened."""
        moved = False
        for name, seen in list(self.observed.items()):
            if seen.phase is Phase.REQUESTED:
                self.enter(name, Phase.STARTING)
            elif seen.phase is Phase.STARTING and seen.spec is not None:
                self.enter(name, Phase.RUNNING)
            elif seen.phase is Phase.KILLED or (
                seen.phase is Phase.ENDING and name not in self.deaf
            ):
                self.observed[name] = Observed(tap=seen.tap, secluded=seen.secluded)
            else:
                continue
            moved = True
        return moved


NAMES = st.sampled_from(["a", "b", "c"])
SPECS = st.builds(
    WorkerSpec,
    st.just("?"),
    st.sampled_from(["client", "server"]),
    st.sampled_from(["/x", "/y"]),
    st.integers(1, 2),
    st.builds(PortSettings, st.sampled_from([None, 9000]), st.booleans()),
)
OBSERVED = st.builds(
    Observed,
    st.booleans(),
    st.none() | st.sampled_from(Phase),
    st.none() | SPECS,
    st.floats(NOW - 20, NOW),
    st.floats(NOW - 5, NOW + 10),
)


@settings(max_examples=300)
@given(
    st.dictionaries(NAMES, SPECS),
    st.dictionaries(NAMES, OBSERVED),
    st.frozensets(NAMES),
    st.integers(0, 5),
)
def test_plans_converge_from_any_state(specs, states, deaf, failures) -> None:
    desired = {
        name: replace(
            PORT,
            name=name,
            mode=spec.mode,
            path=spec.path,
            queues=spec.queues,
            settings=spec.settings,
        )
        for name, spec in specs.items()
    }
    observed = {
        # Only of a worker that was found, and has not spoken, it is not known what it serves.
        name: replace(
            seen,
            spec=None
            if seen.phase is None or (seen.spec is None and seen.phase is Phase.STARTING)
            else replace(seen.spec or SPEC, name=name),
        )
        for name, seen in states.items()
    }
    world = World(desired, observed, deaf, failures)

    world.run(steps=200)

    assert world.observed.keys() == desired.keys()
    for name, port in desired.items():
        seen = world.observed[name]
        assert seen.tap and seen.phase is Phase.RUNNING and seen.spec == worker_spec(port)
