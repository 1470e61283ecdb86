# SPDX-License-Identifier: Apache-2.0
"""How long a port's tap is when, told what its worker tells."""

from __future__ import annotations

import pytest

from ovs_vhost_plugin.daemon.reports import State
from ovs_vhost_plugin.daemon.room import ALL_LONG, LONG, SECONDS, USUAL, Room, length

LOG_ALL = "0x0000000104000000"


class Taps:
    def __init__(self) -> None:
        self.lengths = {"vhu0": USUAL}
        self.changes = 0

    def queue_length(self, name: str) -> int | None:
        return self.lengths.get(name)

    def set_queue_length(self, name: str, frames: int) -> None:
        self.changes += 1
        self.lengths[name] = frames


class World:
    def __init__(self) -> None:
        self.taps = Taps()
        self.room = Room(self.taps)

    def tell(self, status: str, now: float = 0.0, features: str = "", queues: int = 1) -> int:
        state = State(status, "", features, "", 0, (), None, "", "", 0)
        self.room.told("vhu0", state, queues, now)
        return self.taps.lengths["vhu0"]


@pytest.fixture
def world() -> World:
    return World()


def test_a_tap_is_long_from_when_a_front_end_comes_until_its_guest_has_run_for_a_while(
    world: World,
) -> None:
    assert world.tell("connecting") == USUAL
    assert world.tell("connected") == LONG
    assert world.tell("connected", 100.0) == LONG and world.room.wake_at() is None
    assert world.tell("running", 200.0) == LONG
    assert world.tell("running", 205.0) == LONG and world.room.wake_at() == 200.0 + SECONDS
    world.room.run(200.0 + SECONDS - 0.1)
    assert world.taps.lengths["vhu0"] == LONG
    world.room.run(200.0 + SECONDS)
    assert world.taps.lengths["vhu0"] == USUAL and world.room.wake_at() is None
    assert world.taps.changes == 2
    assert world.tell("running", 300.0) == USUAL


def test_a_guest_that_stops_again_in_that_time_begins_anew(world: World) -> None:
    world.tell("connected")
    world.tell("running", 1.0)
    world.tell("connected", 2.0)
    world.room.run(1.0 + SECONDS)
    assert world.tell("running", 20.0) == LONG
    assert world.room.wake_at() == 20.0 + SECONDS


@pytest.mark.parametrize("status", ["connecting", "listening", "error", "starting"])
def test_without_a_front_end_it_is_as_it_was(world: World, status: str) -> None:
    world.taps.lengths["vhu0"] = 1234
    assert world.tell("connected") == LONG
    assert world.tell(status) == 1234


def test_a_guest_that_migrates_away_needs_none(world: World) -> None:
    assert world.tell("connected", features=LOG_ALL) == USUAL


def test_a_tap_that_somebody_has_made_longer_stays_so(world: World) -> None:
    world.taps.lengths["vhu0"] = 2 * LONG
    assert world.tell("connected") == world.tell("connecting") == 2 * LONG
    assert world.taps.changes == 0


def test_what_a_daemon_before_left_long_is_put_right(world: World) -> None:
    world.taps.lengths["vhu0"] = LONG
    world.room.found("vhu0", 1)
    assert world.tell("running", 5.0) == LONG
    world.room.run(5.0 + SECONDS)
    assert world.taps.lengths["vhu0"] == USUAL


def test_a_tap_that_has_gone_is_no_error(world: World) -> None:
    world.taps.lengths.clear()
    world.room.found("vhu0", 1)
    world.room.told("vhu0", State("connected", "", "", "", 0, (), None, "", "", 0), 1, 0.0)
    world.room.gone("vhu0")
    assert world.taps.changes == 0


def test_many_queues_share_what_there_is() -> None:
    assert length(1) == length(2) == LONG
    assert all(n * length(n) <= ALL_LONG for n in range(4, 129))


def test_a_port_with_very_many_queues_keeps_its_length(world: World) -> None:
    assert world.tell("connected", queues=128) == USUAL
