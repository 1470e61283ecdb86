# SPDX-License-Identifier: Apache-2.0
"""What the daemon does about taps that others hold, or that the host's stack hears: fakes."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.daemon.ports import PORT
from support.daemon.world import NOW, World

from ovs_vhost_plugin.daemon.events import Heard
from ovs_vhost_plugin.daemon.ports import Ports
from ovs_vhost_plugin.daemon.reconcile import Phase, worker_spec
from ovs_vhost_plugin.ipc.reports import WorkerHello

KERNEL = replace(PORT, userspace=False)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    return World(Path())


def ports(world: World) -> Ports:
    return world.loop.ports


def turn(world: World, turns: int = 1, now: float = NOW) -> None:
    for _ in range(turns):
        world.loop.turn(now)


def running(world: World) -> None:
    world.workers.links["vhu0"] = SimpleNamespace(
        name="vhu0",
        release=SimpleNamespace(build=world.workers.build),
        knows=lambda _: True,
        spec=worker_spec(PORT),
        phase=Phase.RUNNING,
        since=NOW,
        state=None,
        child=False,
        told_to_quit=False,
        quit=lambda now: setattr(world.workers.links["vhu0"], "told_to_quit", True),
    )


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def has_tap(world: World) -> None:
    """An earlier daemon has made the tap, and its worker has ended."""
    (world.loop.ports._state.tap("vhu0")).write_text("7 7")
    world.taps.made.add("vhu0")
    world.rows(ports={"vhu0": PORT})


def test_a_tap_that_somebody_has_a_queue_of_is_made_anew_before_the_next_worker(world) -> None:
    has_tap(world)
    world.taps.held["vhu0"] = 1

    turn(world, 2)
    assert not world.workers.links and not world.taps.held
    turn(world)
    assert "vhu0" in world.workers.links and world.taps.made == {"vhu0"}
    assert ports(world).taps.unopened == {"vhu0": True}  # the switch has the other one open
    assert ports(world).faults.counters == {"tap-held": 1}


def test_a_tap_that_has_gone_is_made_again_before_the_next_worker(world) -> None:
    has_tap(world)
    turn(world)
    world.taps.made.clear()
    turn(world, 3)
    assert "vhu0" in world.workers.links and world.taps.made == {"vhu0"}


def test_queues_of_new_taps_go_to_their_workers_or_are_closed(world) -> None:
    before = open_fds()
    world.rows(ports={"vhu0": PORT})
    turn(world, 2)
    assert open_fds() == before + 1
    turn(world)
    assert "vhu0" in world.workers.links and open_fds() == before

    world.workers.broken = "nursery-broken: x"
    world.rows(ports={"vhu1": replace(PORT, name="vhu1")}, keys={})
    world.workers.spawn_slots = 0
    turn(world, 2)
    assert open_fds() == before + 1
    world.loop.ports.taps.let_go(NOW)
    assert open_fds() == before


def test_no_worker_gets_a_tap_that_can_not_be_made_anew(world) -> None:
    has_tap(world)
    world.taps.held["vhu0"] = 1
    world.taps.stuck.add("vhu0")

    turn(world, 4)
    assert not world.workers.links
    assert world.keys()["vhost-user-error"] == "tap-held: x"
    world.taps.stuck.clear()
    turn(world, 5, NOW + 60)
    assert "vhu0" in world.workers.links


def test_a_tap_that_does_not_go_is_named_and_tried_again(world) -> None:
    world.rows(ports={"vhu0": PORT})
    turn(world, 2)
    world.taps.stuck.add("vhu0")
    world.database.rows = replace(world.database.rows, ports={}, keys={})

    turn(world, 3)
    assert ports(world).leftovers({}) == {"vhu0": "tap-held: x"}
    assert ports(world).faults.counters == {"tap-held": 1}
    assert world.stack.shut_out == {"vhu0": 7}
    turn(world, 3, NOW + 1)
    assert ports(world).faults.counters == {"tap-held": 2}
    world.taps.stuck.clear()
    turn(world, 2, NOW + 2)
    assert ports(world).leftovers({}) == {} and not world.taps.made
    assert world.stack.shut_out == {}


def test_taps_are_claimed_when_workers_are_adopted(world) -> None:
    (world.loop.ports._state.tap("vhu0")).write_text("7 7")
    world.taps.made.add("vhu0")
    world.taps.unclaimed.add("vhu0")
    running(world)
    world.rows(ports={"vhu0": PORT})

    turn(world)
    assert not world.taps.unclaimed
    # Who attached before that is found when the worker tells how many queues it has itself.
    world.taps.held["vhu0"] = 3
    world.workers.events.append(Heard("vhu0", WorkerHello("1", worker_spec(PORT), queues=2)))
    turn(world)
    assert world.workers.links["vhu0"].told_to_quit
    assert ports(world).faults.counters == {"tap-held": 1}


@pytest.mark.parametrize("claimed", [True, False])
def test_a_worker_alone_on_its_tap_is_left_in_peace(world, claimed: bool) -> None:
    (world.loop.ports._state.tap("vhu0")).write_text("7 7")
    world.taps.made.add("vhu0")
    world.taps.unclaimed |= {"vhu0"} if claimed else set()
    running(world)
    world.rows(ports={"vhu0": PORT})
    turn(world)
    world.taps.held["vhu0"] = 2
    world.workers.events.append(Heard("vhu0", WorkerHello("1", worker_spec(PORT), queues=2)))
    turn(world)
    assert not world.workers.links["vhu0"].told_to_quit


def test_nothing_is_kept_from_taps_of_the_kernel_s_bridges(world) -> None:
    world.rows(ports={"vhu0": KERNEL})
    turn(world, 3)
    assert "vhu0" in world.workers.links and not world.stack.shut_out
    assert ports(world).seclusion.shown("vhu0") == ""


def test_a_port_that_moves_to_the_other_kind_of_bridge_is_heard_there(world) -> None:
    world.rows(ports={"vhu0": PORT})
    turn(world, 2)
    assert world.stack.shut_out == {"vhu0": 7}
    world.rows(ports={"vhu0": KERNEL})
    turn(world)
    assert not world.stack.shut_out
    world.rows(ports={"vhu0": PORT})
    turn(world)
    assert world.stack.shut_out == {"vhu0": 7}
    assert ports(world).seclusion.shown("vhu0") == "shut out"


def test_what_somebody_removed_is_put_back_at_once(world) -> None:
    world.rows(ports={"vhu0": PORT})
    turn(world, 2)
    world.stack.others = ["vhu0"]
    turn(world)
    assert world.stack.shut_out == {"vhu0": 7}


def test_where_the_kernel_can_not_the_port_works_and_shows_it(world) -> None:
    world.stack.unable = "nftables: no"
    world.rows(ports={"vhu0": PORT})
    turn(world, 3)
    assert "vhu0" in world.workers.links
    assert ports(world).seclusion.shown("vhu0") == "host-stack-open: nftables: no"
