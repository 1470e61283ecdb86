# SPDX-License-Identifier: Apache-2.0
"""Which workers are replaced, when, and what is told of it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.daemon.ports import PORT
from support.daemon.world import NOW, World

from ovs_vhost_plugin.daemon.events import Ended, HandoverEnded
from ovs_vhost_plugin.daemon.handover.upgrading import AT_ONCE
from ovs_vhost_plugin.daemon.reconcile import Phase, worker_spec
from ovs_vhost_plugin.ipc.commands import GetStats, HandOver
from ovs_vhost_plugin.ipc.reports import PortState


def link(name: str, **fields: Any) -> SimpleNamespace:
    """A running worker of another build."""
    made = {
        "name": name,
        "release": SimpleNamespace(build="theirs"),
        "spec": worker_spec(PORT),
        "phase": Phase.RUNNING,
        "since": NOW,
        "state": None,
        "child": False,
        "told_to_quit": False,
        "quits": [],
        "knows": lambda command: command is HandOver,
    }
    made["quit"] = made["quits"].append
    return SimpleNamespace(**{**made, **fields})


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.rows(ports={"vhu0": PORT})
    made.loop.ports._known.add("vhu0")
    made.taps.made.add("vhu0")
    made.stack.shut_out["vhu0"] = 7
    made.workers.links["vhu0"] = link("vhu0")
    made.loop.turn(NOW)  # which adopts
    return made


def ended(world: World, outcome: str, why: str = "", now: float = NOW) -> None:
    world.workers.handovers.pop("vhu0")
    world.workers.events.append(HandoverEnded("vhu0", outcome, why, 0.05))
    world.loop.turn(now)


def test_a_worker_of_another_build_is_replaced_by_itself(world: World) -> None:
    (asked,) = world.workers.handovers.values()
    assert (asked.name, asked.uid, asked.gid) == ("vhu0", 7, 7)
    world.workers.links["vhu0"].release.build = world.workers.build
    ended(world, "done")
    assert not world.workers.handovers and not world.upgrading.errors
    assert world.upgrading.outcome("vhu0") == "upgraded in 50 ms"
    assert world.upgrading.shown(world.workers.links["vhu0"]) == ""


def test_one_that_was_born_here_is_of_this_build_whatever_it_says(world: World) -> None:
    """Else a worker that lies would be replaced for ever."""
    world.workers.handovers.clear()
    world.workers.links["vhu0"] = link("vhu0", child=True, state=PortState("listening"))
    world.upgrading._todo.add("vhu0")
    world.upgrading._known.clear()
    world.loop.turn(NOW + 1)
    assert not world.workers.handovers
    assert not world.workers.is_dispensable(world.workers.links["vhu0"])


def test_one_that_is_busy_is_asked_again_later_and_later(world: World) -> None:
    now, pauses = NOW, []
    for _ in range(9):
        ended(world, "busy", "postcopy is under way", now)
        assert not world.workers.handovers
        at = world.upgrading.get_timer()
        assert at is not None and at > now
        pauses.append(at - now)
        now = at
        world.loop.turn(now)
        assert world.workers.handovers
    assert pauses == pytest.approx([0.1 * 2**n for n in range(7)] + [10.0, 10.0])
    assert not world.upgrading.errors


def test_one_that_fails_is_named_and_not_tried_again_by_itself(world: World) -> None:
    ended(world, "failed", "features 0x1")
    port = world.loop.desired["vhu0"]
    assert world.upgrading.errors == {"vhu0": "upgrade-failed: features 0x1"}
    assert world.loop.ports.faults.counters["upgrade-failed"] == 1
    world.loop.turn(NOW + 1000)
    assert not world.workers.handovers
    # An operator may try again, and so does the next build.
    assert world.upgrading.ask(port) == ""
    assert world.upgrading.outcome("vhu0") == ""
    world.loop.turn(NOW + 1001)
    assert world.workers.handovers
    ended(world, "failed", "features 0x1", NOW + 1002)
    world.workers.build = "the next one"
    world.loop.turn(NOW + 1003)
    assert world.workers.handovers
    ended(world, "done", now=NOW + 1004)
    assert not world.upgrading.errors


def test_by_hand_one_of_the_same_build_is_replaced_too(world: World) -> None:
    ended(world, "done")
    world.workers.links["vhu0"].release.build = world.workers.build
    world.loop.turn(NOW + 1)
    assert not world.workers.handovers
    assert world.upgrading.ask(world.loop.desired["vhu0"]) == ""
    world.loop.turn(NOW + 2)
    assert world.workers.handovers


def test_a_port_whose_worker_ends_meanwhile_has_an_answer(world: World) -> None:
    world.upgrading.ask(world.loop.desired["vhu0"])
    world.workers.handovers.clear()
    world.workers.links.clear()
    world.workers.events.append(Ended("vhu0", "worker-sigkill: x", 5.0))
    world.loop.turn(NOW + 1)
    assert world.upgrading.outcome("vhu0") == "its worker has ended"


@pytest.mark.parametrize(
    "fields",
    [
        {"phase": Phase.STARTING},
        {"told_to_quit": True},
        {"knows": lambda command: command is GetStats},
    ],
)
def test_a_worker_that_cannot_is_not_asked(tmp_path: Path, fields: dict[str, Any]) -> None:
    world = World(tmp_path)
    world.rows(ports={"vhu0": PORT})
    world.loop.ports._known.add("vhu0")
    world.taps.made.add("vhu0")
    world.stack.shut_out["vhu0"] = 7
    world.workers.links["vhu0"] = link("vhu0", **fields)
    world.loop.turn(NOW)
    assert not world.workers.handovers


@pytest.mark.parametrize(("status", "goes"), [("listening", True), ("running", False)])
def test_one_without_handover_goes_when_it_serves_nobody(
    world: World, status: str, goes: bool
) -> None:
    world.workers.handovers.clear()
    old = link("vhu0", knows=lambda _: False, state=PortState(status))
    old.fault = ""
    old.errors = ""
    world.workers.links["vhu0"] = old
    world.loop.turn(NOW + 1)
    assert bool(old.quits) is goes
    assert "when its front-end leaves" in world.upgrading.shown(old)
    assert "without handover" in world.upgrading.ask(world.loop.desired["vhu0"])


def test_only_a_few_are_under_way(world: World) -> None:
    world.workers.handovers.clear()
    world.workers.handovers |= {f"other{n}": None for n in range(AT_ONCE)}
    assert world.upgrading.ask(world.loop.desired["vhu0"]) == ""
    world.loop.turn(NOW + 1)
    assert "vhu0" not in world.workers.handovers
    world.workers.handovers.clear()
    world.loop.turn(NOW + 2)
    assert "vhu0" in world.workers.handovers
