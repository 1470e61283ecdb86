# SPDX-License-Identifier: Apache-2.0
"""The loop with a mocked database and mocked taps: when it acts and what it publishes."""

import resource
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.daemon.ports import PORT
from support.daemon.world import (
    NOW,
    World,
)

from ovs_vhost_plugin.daemon.events import Ended, Heard
from ovs_vhost_plugin.daemon.lasting import PATIENCE
from ovs_vhost_plugin.daemon.loop import ACTIONS_AT_ONCE
from ovs_vhost_plugin.daemon.ovsdb import adoption
from ovs_vhost_plugin.daemon.ovsdb.carriage import Trouble
from ovs_vhost_plugin.daemon.ovsdb.database import Standing
from ovs_vhost_plugin.daemon.ovsdb.row_values import RowError, RowErrorName
from ovs_vhost_plugin.daemon.reconcile import ADOPTED_LINGERS, RELEASE_TIMEOUT, Phase, worker_spec
from ovs_vhost_plugin.ipc.reports import AskConnection, PortState


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    return World(Path())


def test_the_tap_comes_before_the_worker_and_both_before_long(world: World) -> None:
    world.rows(ports={"vhu0": PORT})
    world.loop.turn(NOW)
    assert world.taps.made == {"vhu0"} and not world.workers.links
    world.loop.turn(NOW)
    assert world.stack.shut_out == {"vhu0": 7} and not world.workers.links
    world.loop.turn(NOW)
    assert world.workers.links["vhu0"].spec.path == PORT.path


@pytest.mark.parametrize("standing", [Standing.WAITING, Standing.CONTENDED])
def test_who_may_not_act_does_nothing(world: World, standing: Standing) -> None:
    world.rows(ports={"vhu0": PORT})
    world.database.standing = standing
    world.loop.turn(NOW)
    assert not world.taps.made and not world.database.written and not world.workers.adopted


def test_while_the_database_is_away_ports_stay(world: World) -> None:
    world.rows(ports={"vhu0": PORT})
    world.loop.turn(NOW)
    world.database.standing = Standing.WAITING
    world.rows(ports={})
    written = len(world.database.written)
    world.loop.turn(NOW + 100)
    assert world.taps.made == {"vhu0"} and len(world.database.written) == written
    world.database.standing = Standing.ACTIVE
    world.loop.turn(NOW + 101)
    assert not world.taps.made


def test_ports_are_let_go_when_another_daemon_has_the_lock(world: World) -> None:
    world.rows(ports={"vhu0": PORT})
    for _ in range(2):
        world.loop.turn(NOW)
    world.database.standing = Standing.CONTENDED
    for _ in range(2):
        world.loop.turn(NOW)
    assert world.workers.forgotten == 1 and world.taps.made == {"vhu0"}
    # Back again: what the other did is found, not remembered.
    world.database.standing = Standing.ACTIVE
    world.loop.turn(NOW)
    assert world.workers.adopted == 2


def test_a_status_is_written_once(world: World) -> None:
    world.rows(ports={"vhu0": PORT})
    for turn in range(5):
        world.loop.turn(NOW + turn)
    assert world.keys() == {"vhost-user-status": "starting", "vhost-user-socket": PORT.path}
    assert len(world.database.written) == 1


def test_nothing_is_written_while_a_transaction_is_under_way(world: World) -> None:
    world.rows(ports={"vhu0": PORT})
    world.database.busy = True
    world.loop.turn(NOW)
    assert not world.database.written
    world.database.busy = False
    world.loop.turn(NOW)
    assert len(world.database.written) == 1


def test_a_wrong_row_is_counted_once_and_named(world: World) -> None:
    world.rows(errors={"vhu0": RowError(RowErrorName.MODE_UNKNOWN, "do this")})
    for turn in range(3):
        world.loop.turn(NOW + turn)
        world.rows()  # another snapshot with the same errors
    assert world.keys() == {
        "vhost-user-status": "error",
        "vhost-user-error": "mode-unknown: do this",
    }
    assert world.loop.ports.faults.counters == {"mode-unknown": 1}


def test_a_foreign_tap_is_tried_again_slowly_and_counted(world: World) -> None:
    world.taps.foreign.add("vhu0")
    world.rows(ports={"vhu0": PORT})
    for tick in range(600):  # a minute
        world.loop.turn(NOW + tick / 10)
    assert world.keys()["vhost-user-error"] == "tap-foreign: x"
    assert 5 <= world.loop.ports.faults.counters["tap-foreign"] <= 13
    assert len(world.database.written) == 2  # starting, error


def test_keys_are_removed_from_rows_no_longer_ours(world: World) -> None:
    world.rows(ports={"vhu0": PORT}, keys={"iface-id": "theirs"})
    world.loop.turn(NOW)
    world.rows(ports={})
    world.loop.turn(NOW)
    assert world.keys() == {"iface-id": "theirs"}


def test_what_the_last_daemon_published_stays_until_its_worker_speaks(world: World) -> None:
    before = {"vhost-user-status": "running", "vhost-user-announced": "x learned"}
    world.rows(ports={"vhu0": PORT}, keys=before)
    world.taps.made.add("vhu0")
    world.workers.spawn(SimpleNamespace(name="vhu0"), None, -1, [], NOW)
    world.workers.links["vhu0"].child = False
    world.loop.turn(NOW)
    assert world.keys() == before
    world.workers.links["vhu0"].child = True
    world.loop.turn(NOW)
    assert world.keys()["vhost-user-status"] == "starting"
    assert world.keys()["vhost-user-announced"] == "x learned"
    world.announcing.announced["vhu0"] = "y learned"
    world.loop.turn(NOW)
    assert world.keys()["vhost-user-announced"] == "y learned"


def test_a_worker_that_was_told_to_end_does_not_speak_for_the_next_one(world: World) -> None:
    """As for a port that was removed and added again: nobody is to connect to what goes away."""
    world.rows(ports={"vhu0": PORT})
    for _ in range(3):
        world.loop.turn(NOW)
    link = world.workers.links["vhu0"]
    link.phase, link.spec = Phase.RUNNING, worker_spec(PORT)
    link.state = PortState("listening", PORT.path, "", "", 0, (), None, "", "", 0)
    world.loop.turn(NOW)
    assert world.keys()["vhost-user-status"] == "listening"
    link.phase, link.told_to_quit = Phase.ENDING, True
    world.loop.turn(NOW)
    assert world.keys() == {"vhost-user-status": "starting", "vhost-user-socket": PORT.path}


def test_a_slip_is_published_beside_the_status_and_counted(world: World) -> None:
    world.rows(ports={"vhu0": replace(PORT, warning="announce-key-unknown: do this")})
    for turn in range(3):
        world.loop.turn(NOW + turn)
    assert world.keys()["vhost-user-status"] == "starting"
    assert world.keys()["vhost-user-error"] == "announce-key-unknown: do this"
    assert world.loop.ports.faults.counters == {"announce-key-unknown": 1}
    assert "vhu0" in world.workers.links
    world.rows(ports={"vhu0": PORT})
    world.loop.turn(NOW + 3)
    assert world.keys().get("vhost-user-error") is None


def told(world: World, status: str) -> None:
    link = world.workers.links["vhu0"]
    link.phase = Phase.RUNNING
    link.state = PortState(status, PORT.path, "", "", 0, (), None, "", "", 0)


def test_running_is_not_said_of_a_port_that_its_bridge_does_not_carry(world: World) -> None:
    world.rows(ports={"vhu0": PORT})
    for _ in range(3):
        world.loop.turn(NOW)
    told(world, "running")
    world.rows(ports={"vhu0": replace(PORT, troubles={Trouble.CANNOT_CARRY: "no module"})})
    for late in (0.0, PATIENCE / 2):
        world.loop.turn(NOW + late)
        assert world.keys()["vhost-user-status"] == "running", "ovs-vswitchd may be at it"
    assert world.loop.lasting.get_timer() == NOW + PATIENCE
    world.loop.turn(NOW + PATIENCE)
    assert world.keys()["vhost-user-status"] == "error"
    assert world.keys()["vhost-user-error"] == "bridge-cannot-carry: no module"
    told(world, "connected")
    world.loop.turn(NOW + PATIENCE)
    assert world.keys()["vhost-user-status"] == "connected"
    assert world.keys()["vhost-user-error"] == "bridge-cannot-carry: no module"
    assert world.loop.ports.faults.counters == {"bridge-cannot-carry": 1}
    told(world, "running")
    world.rows(ports={"vhu0": PORT})
    world.loop.turn(NOW + PATIENCE)
    assert world.keys()["vhost-user-status"] == "running"
    assert world.keys().get("vhost-user-error") is None


def test_an_mtu_that_is_not_taken_is_published_beside_the_status(world: World) -> None:
    world.rows(ports={"vhu0": replace(PORT, troubles={Trouble.MTU_NOT_TAKEN: "most is 9"})})
    for late in (0, 0, 0, PATIENCE):
        assert world.keys().get("vhost-user-error") is None
        world.loop.turn(NOW + late)
    assert world.keys()["vhost-user-status"] == "starting"
    assert world.keys()["vhost-user-error"] == "mtu-not-taken: most is 9"
    assert world.loop.ports.faults.counters == {"mtu-not-taken": 1}


def test_what_an_earlier_daemon_has_waited_for_needs_no_patience(world: World) -> None:
    before = {"vhost-user-status": "error", "vhost-user-error": "bridge-cannot-carry: no module"}
    world.rows(
        ports={"vhu0": replace(PORT, troubles={Trouble.CANNOT_CARRY: "no module"})}, keys=before
    )
    world.taps.made.add("vhu0")
    world.workers.spawn(worker_spec(PORT), None, -1, [], NOW)
    told(world, "running")
    for _ in range(2):
        world.loop.turn(NOW)
        assert world.keys() == {**before, "vhost-user-socket": PORT.path}


def test_a_socket_that_has_to_be_mended_is_published_beside_the_status(world: World) -> None:
    world.rows(ports={"vhu0": replace(PORT, socket_owner="qemu")})
    for _ in range(3):
        world.loop.turn(NOW)
    world.workers.events.append(Heard("vhu0", AskConnection()))
    world.loop.turn(NOW)
    assert world.keys()["vhost-user-status"] == "starting"
    assert world.keys()["vhost-user-error"] == f"socket-not-trusted: {PORT.path} of qemu"
    assert world.loop.ports.faults.counters == {"socket-not-trusted": 1}
    world.workers.links.clear()
    world.workers.events.append(Ended("vhu0", "", 1.0))
    world.loop.turn(NOW + 1)
    assert world.keys().get("vhost-user-error") is None


def test_a_crash_is_published_and_delays_the_next_worker(world: World) -> None:
    world.rows(ports={"vhu0": PORT})
    for _ in range(2):
        world.loop.turn(NOW)
    world.workers.links.clear()
    world.workers.events.append(Ended("vhu0", "worker-sigkill: x", 1.0))
    world.loop.turn(NOW)
    assert world.keys()["vhost-user-error"] == "worker-sigkill: x"
    assert not world.workers.links
    world.loop.turn(NOW + 0.2)
    assert "vhu0" in world.workers.links


def test_a_port_that_waits_for_a_broken_fork_server_says_so(world: World) -> None:
    world.workers.spawn_slots, world.workers.broken = 0, "nursery-broken: x"
    world.rows(ports={"vhu0": PORT})
    for _ in range(2):
        world.loop.turn(NOW)
    assert world.keys()["vhost-user-error"] == "nursery-broken: x"


def test_cleaning_up_does_not_wait_for_ever(world: World) -> None:
    world.rows(ports={"vhu0": PORT})
    world.loop.turn(NOW)
    world.loop.exit(NOW, cleanup=True)
    world.database.standing = Standing.CONTENDED
    world.loop.turn(NOW + 1)
    assert not world.loop.exiting
    world.loop.turn(NOW + 60)
    assert world.loop.exiting


def test_types_of_rows_that_are_taken_over_are_cleared(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    world = World(Path(), adopt=True)
    keys = {"vhu0": {"vhost-user-dpdk-type": "dpdkvhostuser", "vhost-user-mode": "server"}}
    world.rows(adopted=keys)
    world.loop.turn(NOW)
    assert world.database.written == [(keys, frozenset({"vhu0"}), {})]


def test_dpdk_types_are_told_on_request_and_taken_back_at_the_end(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    world = World(Path(), adopt=True)
    ours = {"dpdkvhostuser", "dpdkvhostuserclient"}
    world.database.tell({"system"})
    world.loop.turn(NOW)
    assert world.database.rows.switch.iface_types == {"system", *ours}
    for _ in range(3):  # the switch writes its own again
        world.database.tell((), ours)
        world.loop.turn(NOW)
        assert world.database.iface_types >= ours
        assert world.sleeps(NOW) is None
    world.loop.turn(NOW + 3)
    assert len(world.database.written) == 4

    world.loop.exit(NOW + 4, cleanup=True)
    for _ in range(3):
        world.loop.turn(NOW + 4)
    assert world.loop.exiting and world.database.rows.switch.iface_types == {"system"}


def test_a_daemon_that_lost_the_lock_does_not_wake_up_to_tell_types(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    world = World(Path(), adopt=True)
    world.database.tell({"system"})
    world.loop.turn(NOW)
    for _ in range(adoption.BURST):
        world.database.tell((), adoption.MODES)
        world.loop.turn(NOW)
    assert world.sleeps(NOW) == 1 / adoption.RATE
    world.database.standing = Standing.CONTENDED
    world.loop.turn(NOW)
    assert world.sleeps(NOW) is None


def test_cleaning_up_ends_when_nothing_is_left(world: World) -> None:
    world.rows(ports={"vhu0": PORT})
    world.loop.turn(NOW)
    world.loop.exit(NOW, cleanup=True)
    assert world.sleeps(NOW) == 0
    for _ in range(3):
        world.loop.turn(NOW)
    assert world.loop.exiting and not world.taps.made and world.keys() == {}


def test_exit_without_cleaning_leaves_all(world: World) -> None:
    world.rows(ports={"vhu0": PORT})
    world.loop.turn(NOW)
    world.loop.exit(NOW, cleanup=False)
    assert world.loop.exiting and world.taps.made == {"vhu0"}


def test_a_tap_stays_while_the_switch_has_it_open(world: World) -> None:
    world.rows(ports={"vhu0": PORT})
    world.loop.turn(NOW)
    world.taps.open.add("vhu0")
    world.database.rows = replace(world.database.rows, ports={}, keys={})
    world.loop.turn(NOW + 1)
    assert world.taps.made == {"vhu0"}
    # The row was there again before the daemon knew: the switch finds the tap it has opened.
    world.rows(ports={"vhu0": PORT})
    world.loop.turn(NOW + 9)
    world.database.rows = replace(world.database.rows, ports={}, keys={})
    world.workers.links.clear()
    world.loop.turn(NOW + 10)
    assert world.taps.made == {"vhu0"}
    world.taps.open.clear()
    world.loop.turn(NOW + 10.1)
    assert not world.taps.made


def test_a_tap_does_not_stay_for_ever_nor_for_a_row_that_is_only_not_ours(world: World) -> None:
    world.rows(ports={"vhu0": PORT, "vhu1": replace(PORT, name="vhu1")})
    for _ in range(3):
        world.loop.turn(NOW)
    world.workers.links.clear()
    world.taps.open |= {"vhu0", "vhu1"}
    keys = {"vhu1": world.database.rows.keys["vhu1"]}
    world.database.rows = replace(world.database.rows, ports={}, keys=keys)
    world.loop.turn(NOW + 1)
    assert world.taps.made == {"vhu0"}
    world.loop.turn(NOW + 1 + RELEASE_TIMEOUT)
    assert not world.taps.made


def test_where_os_vif_unplugs_a_tap_stays_a_moment_longer(tmp_path, monkeypatch) -> None:
    """It removes the tap itself, and fails if we do that while it looks."""
    monkeypatch.chdir(tmp_path)
    world = World(Path(), adopt=True)
    world.rows(ports={"vhu0": PORT})
    for _ in range(3):
        world.loop.turn(NOW)
    world.workers.links.clear()
    world.database.rows = replace(world.database.rows, ports={}, keys={})
    for late, taps in (
        (0.0, {"vhu0"}),
        (ADOPTED_LINGERS - 0.1, {"vhu0"}),
        (ADOPTED_LINGERS, set()),
    ):
        world.loop.turn(NOW + 1 + late)
        assert world.taps.made == taps


def test_the_last_fds_are_not_given_to_ports(world: World, monkeypatch) -> None:
    world.rows(ports={"vhu0": PORT})
    world.loop.turn(NOW)
    world.loop.turn(NOW)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (70, 70))
    world.loop.turn(NOW)
    assert not world.workers.links
    error = world.keys()["vhost-user-error"]
    assert error.startswith("fds-exhausted: the daemon may have 70 fds")


@pytest.mark.parametrize("ports", [3, 300])
def test_a_turn_looks_only_at_ports_that_something_happened_to(
    world: World, monkeypatch, ports: int
) -> None:
    names = [f"vhu{number}" for number in range(ports)]
    world.workers.spawn_slots = ports
    rows = {name: replace(PORT, name=name, path=f"/run/{name}") for name in names}
    world.rows(ports=rows, keys={})
    monkeypatch.setattr(world.workers, "take_touched", set)
    for _ in range(3 * ports + 1):
        world.loop.turn(NOW)
        world.workers.born()
    assert world.loop.agenda.get_timer(NOW, slots=True) is None
    assert world.workers.links.keys() == rows.keys()
    looked_at: list[str] = []
    for what in (world.loop.ports, "_observe"), (world.loop, "_keys"):
        real = getattr(*what)

        def noted(name: str, *others: Any, real: Any = real) -> Any:
            looked_at.append(name)
            return real(name, *others)

        monkeypatch.setattr(*what, noted)
    world.loop.turn(NOW)
    assert looked_at == []
    monkeypatch.setattr(world.workers, "take_touched", lambda: {"vhu1"})
    world.loop.turn(NOW)
    assert looked_at == ["vhu1", "vhu1"]


def test_a_turn_does_a_few_things_and_the_others_do_the_rest(world: World) -> None:
    names = [f"vhu{number}" for number in range(100)]
    rows = {name: replace(PORT, name=name, path=f"/run/{name}") for name in names}
    world.rows(ports=rows, keys={})
    before = 0
    while len(world.taps.made) < len(names):
        world.loop.turn(NOW)
        world.workers.born()
        assert world.sleeps(NOW) == 0 and len(world.taps.made) - before <= ACTIONS_AT_ONCE
        before = len(world.taps.made)


@pytest.mark.parametrize("standing", [Standing.WAITING, Standing.CONTENDED])
def test_a_daemon_that_may_not_act_sleeps(world: World, standing: Standing) -> None:
    world.rows(ports={"vhu0": PORT, "vhu1": replace(PORT, name="vhu1", path="/other")})
    world.loop.turn(NOW)
    world.workers.spawn(worker_spec(PORT), None, -1, [], NOW)
    assert world.sleeps(NOW) == 0
    world.database.standing = standing
    for second in range(4):
        world.loop.turn(NOW + second)
        sleeps = world.sleeps(NOW + second)
        assert sleeps is None or sleeps > 0
    world.database.standing = Standing.ACTIVE
    world.loop.turn(NOW + 5)
    assert world.sleeps(NOW + 5) == 0
