# SPDX-License-Identifier: Apache-2.0
"""Who is announced, and when: told rows, reports and the time, by the actions that follow."""

from dataclasses import replace

import pytest

from ovs_vhost_plugin.announce.actions import (
    Announce,
    AskSent,
    FindMoved,
    GuestAction,
    NothingKnown,
    TellMoved,
    Withdraw,
)
from ovs_vhost_plugin.announce.guests.guests import Guests
from ovs_vhost_plugin.announce.guests.port import GuestPort
from ovs_vhost_plugin.announce.policy import Policy
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station, StationKey

MAC, OTHER = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
PORT = GuestPort("vhu0", Location("br0", 3, "/run/br0.mgmt"), Policy(rounds=2), (Station(MAC),))


class World:
    def __init__(self, port: GuestPort = PORT) -> None:
        self.now = 100.0
        self.guests = Guests()
        self.conflict = ""
        self.rows(port)

    def rows(self, *ports: GuestPort) -> None:
        named = {port.name: port for port in ports}
        self.guests.set_ports(named, lambda *_: self.conflict, self.now)

    def runs(
        self, base: int = 7, *, announces_itself: bool = False, migrates: bool = False
    ) -> None:
        """Its rings begin at `base`, and it runs."""
        self.guests.started("vhu0", base, 5, self.now, moved_in=False, further=False)
        self.status("running", announces_itself=announces_itself)

    def status(
        self, status: str, *, announces_itself: bool = False, migrates: bool = False
    ) -> None:
        self.guests.status(
            "vhu0", status, self.now, announces_itself=announces_itself, migrates=migrates
        )

    def waits(self, seconds: float) -> None:
        self.now += seconds
        self.guests.handle_timer(self.now)

    def announced(self) -> list[tuple[bytes, str, str]]:
        """MAC, trigger and refusal of what is to be announced; there is nothing else to do."""
        return [self._announced(action) for action in self.guests.take_actions()]

    @staticmethod
    def _announced(action: GuestAction) -> tuple[bytes, str, str]:
        assert isinstance(action, Announce)
        return action.request.station.mac, action.request.trigger, action.refusal


@pytest.fixture
def world() -> World:
    return World()


def test_a_guest_that_moved_in_is_announced_in_rounds(world: World) -> None:
    world.runs()
    assert world.announced() == [(MAC, "moved-in", "")]
    timer = world.guests.get_timer()
    assert timer is not None and timer > world.now
    world.waits(timer - world.now)
    assert world.announced() == [(MAC, "moved-in", "")]
    assert world.guests.get_timer() is None, "that was the second of two"


def test_a_driver_that_starts_announces_itself(world: World) -> None:
    world.runs(base=0)
    assert world.announced() == []


def test_the_front_ends_rounds_take_the_place_of_ours(world: World) -> None:
    world.guests.rarp("vhu0", OTHER, world.now, world.now)
    assert world.announced() == [(MAC, "send-rarp", ""), (OTHER, "send-rarp", "")]
    world.runs()
    assert {mac for mac, _, _ in world.announced()} == {MAC, OTHER}
    assert world.guests.get_timer() is None


def test_a_guest_that_stops_is_withdrawn_and_not_announced_again(world: World) -> None:
    world.runs()
    world.announced()
    world.status("connected")
    assert world.guests.take_actions() == [Withdraw("vhu0", "its guest has stopped")]
    assert world.guests.get_timer() is None


def test_claims_of_a_guest_that_was_here_before_are_looked_for_first(world: World) -> None:
    world.runs()
    world.guests.learned("vhu0", (Station(OTHER),), world.now)
    world.status("connected")
    world.guests.take_actions()
    world.runs()
    (find,) = world.guests.take_actions()
    assert isinstance(find, FindMoved) and find.look.stations == (Station(OTHER),)
    line = f"    1     0  {OTHER.hex(':')}    0\n"
    world.guests.table(find.look, line, world.now)
    told, *announced = world.guests.take_actions()
    assert told == TellMoved("vhu0", (StationKey(OTHER, 0),))
    assert [world._announced(action) for action in announced] == [
        (OTHER, "resumed", "mac-elsewhere: on port 1"),
        (MAC, "resumed", ""),
    ]
    world.guests.table(find.look, line, world.now)
    assert world.guests.take_actions() == [], "it was answered"


def test_a_guest_that_ought_to_have_spoken_is_asked_for_and_announced() -> None:
    world = World(replace(PORT, policy=Policy(rounds=1, guest_silent=1000)))
    world.runs(announces_itself=True)
    world.announced()
    world.waits(1.0)
    (asked,) = world.guests.take_actions()
    assert isinstance(asked, AskSent)
    world.guests.counted("vhu0", asked.request, 5, world.now)
    assert world.announced() == [(MAC, "guest-silent", "")]


def test_a_guest_of_whom_nothing_is_known_is_announced_once_it_shows_an_address() -> None:
    world = World(replace(PORT, given=()))
    world.runs()
    assert world.guests.take_actions() == [NothingKnown("vhu0", "moved-in")]
    world.guests.learned("vhu0", (Station(OTHER),), world.now)
    assert world.announced() == [(OTHER, "moved-in", "")]


def test_a_mac_of_anothers_is_refused_by_the_rows_word(world: World) -> None:
    world.conflict = "mac-foreign: vhu1's"
    world.runs()
    assert world.announced() == [(MAC, "moved-in", "mac-foreign: vhu1's")]


def test_a_port_that_was_moved_or_forwards_announces_its_guest(world: World) -> None:
    world.runs()
    world.announced()
    world.rows(replace(PORT, location=replace(PORT.location, ofport=4)))
    assert world.announced() == [(MAC, "port-moved", "")]
    hindered = replace(PORT, location=replace(PORT.location, ofport=4, hindered="STP: listening"))
    world.rows(hindered)
    assert world.announced() == []
    world.rows(replace(hindered, location=replace(hindered.location, hindered="")))
    assert world.announced() == [(MAC, "port-forwards", "")]


def test_an_operator_is_told_of_the_first_station(world: World) -> None:
    assert world.guests.by_hand("vhu0", OTHER, world.now) == Station(OTHER)
    assert world.announced() == [(OTHER, "manual", "")]
    assert world.guests.by_hand("vhu0", None, world.now) == Station(MAC)


def test_what_was_known_of_a_port_without_a_row_is_forgotten_unless_its_guest_runs() -> None:
    world = World()
    world.guests.learned("vhu0", (Station(OTHER),), world.now)
    world.rows()
    world.rows(replace(PORT, given=()))
    assert not world.guests.known("vhu0", world.now)
    world.runs()
    world.guests.learned("vhu0", (Station(OTHER),), world.now)
    world.rows()
    world.rows(replace(PORT, given=()))
    assert world.guests.known("vhu0", world.now)
