# SPDX-License-Identifier: Apache-2.0
"""Who is announced, and when: told rows, reports and the time, by the actions that follow."""

from collections.abc import Container, Set
from dataclasses import replace

import pytest

from ovs_vhost_plugin.announce.actions import (
    Announce,
    AskSent,
    FindMoved,
    GuestAction,
    NothingKnown,
    Query,
    TellMoved,
    Withdraw,
)
from ovs_vhost_plugin.announce.announcement import Announcement, Request
from ovs_vhost_plugin.announce.frames.queries import queries
from ovs_vhost_plugin.announce.guests.guest import REMEMBERED, Arrival
from ovs_vhost_plugin.announce.guests.guests import ARRIVES_WITHIN, RARP_ROUNDS, Guests
from ovs_vhost_plugin.announce.guests.port import GuestPort
from ovs_vhost_plugin.announce.policy import Policy
from ovs_vhost_plugin.announce.result import Outcome
from ovs_vhost_plugin.announce.triggers import Trigger
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station, StationKey
from ovs_vhost_plugin.net.vlan import PortVlan

MAC, OTHER = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
PORT = GuestPort("vhu0", Location("br0", 3, "/run/br0.mgmt"), Policy(rounds=2), (Station(MAC),))


class World:
    def __init__(self, port: GuestPort = PORT) -> None:
        self.now = 100.0
        self.guests = Guests()
        self.conflict = ""
        self.judged: tuple[bytes, str, list[str]] | None = None
        self.rows(port)

    def rows(self, *ports: GuestPort, changed: Set[str] | None = None) -> None:
        named = {port.name: port for port in ports}
        self.guests.set_ports(named, self._conflict, self.now, changed)

    def _conflict(self, mac: bytes, port: str, running: Container[str]) -> str:
        self.judged = mac, port, [name for name in ("vhu0", "vhu1", "none") if name in running]
        return self.conflict

    def runs(
        self, base: int = 7, *, announces_itself: bool = False, migrates: bool = False
    ) -> None:
        """Its rings begin at `base`, and it runs."""
        self.guests.started("vhu0", base, 5, self.now, moved_in=False, further=False)
        self.status("running", announces_itself=announces_itself, migrates=migrates)

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


def stopped(*macs: bytes) -> Withdraw:
    return Withdraw("vhu0", "its guest has stopped", frozenset(macs))


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


def test_a_guest_that_moves_in_as_its_host_boots_is_announced_in_rounds(world: World) -> None:
    """The clock counts from the boot, so its first seconds are after no SEND_RARP."""
    world.now = 0.0
    world.runs()
    assert world.guests.get_timer() is not None


def test_a_driver_that_starts_announces_itself(world: World) -> None:
    world.runs(base=0)
    assert world.announced() == []


def test_the_front_ends_rounds_take_the_place_of_ours(world: World) -> None:
    world.guests.rarp("vhu0", OTHER, world.now, world.now)
    assert world.announced() == [(MAC, "send-rarp", ""), (OTHER, "send-rarp", "")]
    world.runs()
    assert {mac for mac, _, _ in world.announced()} == {MAC, OTHER}
    assert world.guests.get_timer() is None


def test_the_front_ends_rounds_take_that_place_only_so_long(world: World) -> None:
    world.guests.rarp("vhu0", MAC, world.now, world.now)
    world.now += RARP_ROUNDS
    world.runs()
    assert world.guests.get_timer() is not None


def test_a_ring_that_began_after_the_first_tells_that_the_guest_was_there(world: World) -> None:
    world.runs(base=0)
    world.guests.started("vhu0", 7, 5, world.now, moved_in=False, further=True)
    assert world.announced() == [(MAC, "moved-in", "")]


def test_only_macs_that_may_be_announced_are_told_of_one_that_stops() -> None:
    world = World(replace(PORT, attached=True))
    world.guests.rarp("vhu0", OTHER, world.now, world.now)
    world.runs()
    world.guests.take_actions()
    world.status("connected")
    assert world.guests.take_actions() == [stopped(MAC)]


def test_rings_may_be_told_of_after_the_guest_runs(world: World) -> None:
    world.status("running")
    world.guests.started("vhu0", 7, 5, world.now, moved_in=False, further=False)
    assert world.announced() == [(MAC, "moved-in", "")]


def test_a_guest_that_stops_is_withdrawn_and_not_announced_again(world: World) -> None:
    world.runs()
    world.announced()
    world.status("connected")
    assert world.guests.take_actions() == [stopped(MAC)]
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
    world.now += 0.25
    world.guests.table(find.look, line, world.now)
    told, *announced = world.guests.take_actions()
    assert told == TellMoved("vhu0", (StationKey(OTHER, 0),))
    times = [action.request.received_at for action in announced if isinstance(action, Announce)]
    assert times == [world.now, world.now]
    assert [world._announced(action) for action in announced] == [
        (OTHER, "resumed", "mac-elsewhere: on port 1"),
        (MAC, "resumed", ""),
    ]
    world.guests.table(find.look, line, world.now)
    assert world.guests.take_actions() == [], "it was answered"


def test_an_answer_for_a_guest_that_has_stopped_meanwhile_announces_nothing(world: World) -> None:
    world.runs()
    world.guests.learned("vhu0", (Station(OTHER),), world.now)
    world.status("connected")
    world.runs()
    *_, find = world.guests.take_actions()
    assert isinstance(find, FindMoved)
    world.status("connected")
    world.guests.take_actions()
    world.guests.table(find.look, "", world.now)
    assert world.guests.take_actions() == []


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


def test_rows_that_stay_end_no_rounds_and_a_row_that_goes_ends_its_own(world: World) -> None:
    world.runs()
    world.rows(PORT)
    assert world.guests.get_timer() is not None
    world.rows()
    assert world.guests.get_timer() is None


def test_a_port_that_moves_without_a_guest_announces_nothing(world: World) -> None:
    world.guests.learned("vhu0", (Station(OTHER),), world.now)
    world.rows(replace(PORT, location=replace(PORT.location, ofport=4)))
    assert world.guests.take_actions() == []


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
    world.rows()
    world.guests.ended("vhu0", world.now)
    world.rows(replace(PORT, given=()))
    assert not world.guests.known("vhu0", world.now)


def test_what_has_moved_on_is_looked_for_once_as_a_guest_begins_to_migrate(world: World) -> None:
    """It does not go along with the guest; nothing is announced for that."""
    world.runs()
    world.guests.learned("vhu0", (Station(OTHER),), world.now)
    world.announced()
    world.status("running", migrates=True)
    (find,) = world.guests.take_actions()
    assert isinstance(find, FindMoved)
    assert (find.look.trigger, find.look.place) == ("", PORT.location)
    assert find.look.stations == (Station(OTHER),)
    world.status("running", migrates=True)
    assert world.guests.take_actions() == []
    world.guests.table(find.look, f"    1     0  {OTHER.hex(':')}    0\n", world.now)
    assert world.guests.take_actions() == [TellMoved("vhu0", (StationKey(OTHER, 0),))]


def test_a_guest_whose_port_has_no_row_is_not_looked_for(world: World) -> None:
    world.runs()
    world.rows()
    world.guests.take_actions()
    world.status("running", migrates=True)
    assert world.guests.take_actions() == []


def test_an_announcement_is_of_its_port_and_its_time_by_its_policy(world: World) -> None:
    world.guests.rarp("vhu0", MAC, 99.5, world.now)
    (announce,) = world.guests.take_actions()
    assert isinstance(announce, Announce)
    request = announce.request
    assert (request.port, request.received_at, request.policy) == ("vhu0", 99.5, PORT.policy)


def test_whose_a_mac_is_depends_on_whose_guests_run() -> None:
    world = World()
    world.rows(PORT, replace(PORT, name="vhu1"))
    world.runs()
    assert world.judged == (MAC, "vhu0", ["vhu0"])


@pytest.mark.parametrize(
    ("silent", "announces_itself", "asked"),
    [(1000, True, True), (0, True, False), (1000, False, False)],
)
def test_who_is_asked_for_and_when(silent: int, announces_itself: bool, asked: bool) -> None:
    world = World(replace(PORT, policy=Policy(rounds=1, guest_silent=silent)))
    world.runs(announces_itself=announces_itself)
    world.announced()
    assert world.guests.get_timer() == (world.now + 1.0 if asked else None)
    world.waits(0.9)
    assert world.guests.take_actions() == []
    world.waits(0.1)
    assert bool(world.guests.take_actions()) == asked


def test_a_guest_that_has_shown_its_address_has_spoken() -> None:
    """What it is announced for late by its own frame, is no reason to ask for it."""
    world = World(replace(PORT, given=(), policy=Policy(rounds=1, guest_silent=1000)))
    world.runs()
    world.status("running", announces_itself=True)
    world.guests.take_actions()
    world.guests.learned("vhu0", (Station(OTHER),), world.now)
    assert world.announced() == [(OTHER, "moved-in", "")]
    world.waits(2.0)
    assert world.guests.take_actions() == []


def test_only_rows_that_changed_are_looked_at(world: World) -> None:
    world.runs()
    world.announced()
    moved = replace(PORT, location=replace(PORT.location, ofport=4))
    world.rows(moved, changed=set())
    assert world.announced() == []
    again = replace(PORT, location=replace(PORT.location, ofport=5))
    world.rows(again, changed={"vhu0", "vhu1", "gone"})
    assert world.announced() == [(MAC, "port-moved", "")]


def test_each_port_of_many_is_looked_at() -> None:
    world = World()
    ports = [replace(PORT, name=f"vhu{n}") for n in range(4)]
    world.rows(*ports)
    for n in range(4):
        world.guests.started(f"vhu{n}", 7, 5, world.now, moved_in=False, further=False)
        world.guests.status(f"vhu{n}", "running", world.now, announces_itself=False, migrates=False)
    world.guests.take_actions()
    new = replace(PORT, name="a-new-one")
    moved = [replace(p, location=replace(p.location, ofport=9)) for p in ports[1:]]
    in_order = dict.fromkeys(("a-new-one", *(port.name for port in ports))).keys()
    world.rows(new, *moved, changed=in_order)
    triggers = [
        (action.request.port, action.request.trigger)
        for action in world.guests.take_actions()
        if isinstance(action, Announce)
    ]
    assert sorted(triggers) == [(f"vhu{n}", "port-moved") for n in (1, 2, 3)]


def test_claims_of_a_moved_port_are_looked_for_where_it_was(world: World) -> None:
    world.runs()
    world.guests.learned("vhu0", (Station(OTHER),), world.now)
    world.announced()
    world.rows(replace(PORT, location=replace(PORT.location, ofport=4)))
    (find,) = world.guests.take_actions()
    assert isinstance(find, FindMoved) and find.look.place == PORT.location
    assert find.look.trigger == "port-moved"


def test_a_port_with_another_socket_has_another_guest() -> None:
    world = World(replace(PORT, policy=Policy(rounds=2, guest_silent=1000)))
    world.runs(announces_itself=True)
    world.announced()
    assert world.guests.get_timer() is not None
    world.rows(replace(PORT, socket=("server", "/run/other.sock")))
    assert world.guests.get_timer() is None, "no round, and nobody is asked for"


def test_a_guest_that_stops_is_asked_for_no_more() -> None:
    world = World(replace(PORT, policy=Policy(rounds=1, guest_silent=1000)))
    world.runs(announces_itself=True)
    world.announced()
    world.status("connected")
    world.guests.take_actions()
    world.waits(2.0)
    assert world.guests.take_actions() == []


def test_a_guest_whom_no_worker_serves_is_asked_for_no_more() -> None:
    world = World(replace(PORT, policy=Policy(rounds=1, guest_silent=1000)))
    world.runs(announces_itself=True)
    world.announced()
    world.waits(1.0)
    (asked,) = world.guests.take_actions()
    assert isinstance(asked, AskSent)
    world.guests.no_worker("vhu0")
    world.guests.counted("vhu0", asked.request, 5, world.now)
    assert world.guests.take_actions() == []


@pytest.mark.parametrize(("status", "trigger"), [("connecting", "reconnect"), ("off", "reconnect")])
def test_a_front_end_that_goes_while_its_guest_runs_may_come_back(
    world: World, status: str, trigger: str
) -> None:
    world.runs()
    world.status(status)
    world.guests.take_actions()
    world.now += 1.0
    world.runs()
    assert world.announced() == [(MAC, trigger, "")]


def test_a_guest_that_lost_its_connection_is_expected_for_a_while(world: World) -> None:
    for seconds, trigger in ((1.0, "reconnect"), (REMEMBERED + 1, "moved-in")):
        world.runs()
        world.guests.take_actions()
        world.guests.ended("vhu0", world.now)
        assert world.guests.take_actions() == [stopped(MAC)]
        world.now += seconds
        world.runs()
        assert world.announced() == [(MAC, trigger, "")]


def test_a_guest_whose_state_came_along_has_moved_in(world: World) -> None:
    world.guests.started("vhu0", 0, 5, world.now, moved_in=True, further=False)
    world.status("running")
    assert world.announced() == [(MAC, "moved-in", "")]


def test_an_isolated_port_has_no_rounds_and_says_so_of_each_station() -> None:
    isolated = replace(PORT.location, vlan=PortVlan(trunks=frozenset({4095})))
    assert isolated.vlan.isolated
    world = World(replace(PORT, location=isolated, given=(Station(MAC, 7),)))
    world.runs()
    assert world.announced() == [(MAC, "moved-in", "")]
    assert world.guests.get_timer() is None


def test_a_port_that_becomes_isolated_ends_its_rounds(world: World) -> None:
    world.runs()
    assert world.guests.get_timer() is not None
    isolated = replace(PORT.location, vlan=PortVlan(trunks=frozenset({4095})))
    world.rows(replace(PORT, location=isolated))
    assert world.guests.get_timer() is None


def test_a_station_is_announced_in_each_vlan_that_its_port_lists() -> None:
    trunk = replace(PORT.location, vlan=PortVlan(trunks=frozenset({5, 7})))
    world = World(replace(PORT, location=trunk))
    world.runs()
    vlans = [a.request.station.vlan for a in world.guests.take_actions() if isinstance(a, Announce)]
    assert sorted(vlans) == [5, 7]


def test_a_guest_whose_bridge_snoops_is_asked_for_its_groups_by_its_port() -> None:
    bridge = bytes.fromhex("02000000000a")
    world = World(replace(PORT, snoops=True, bridge_mac=bridge))
    world.runs()
    asked = [action for action in world.guests.take_actions() if isinstance(action, Query)]
    assert asked == [Query("vhu0", queries(bridge, 0))]


@pytest.mark.parametrize(
    ("given", "reason", "worth"),
    [
        ((Station(MAC),), "mac-not-given: add it", False),
        ((Station(MAC),), "mac-elsewhere: on port 1: and more", False),
        ((Station(MAC),), "mac-foreign: vhu1's", True),
        ((), "mac-not-given: add it", True),
        ((), "mac-elsewhere: on port 1", True),
    ],
)
def test_what_a_peer_claims_and_rows_do_not_give_is_not_published(
    given: tuple[Station, ...], reason: str, worth: bool
) -> None:
    guests = World(replace(PORT, given=given)).guests
    announcement = Announcement(Request("vhu0", Station(OTHER), "send-rarp", 1.0), 1.0)
    announcement.reason = reason
    assert guests.worth_publishing(announcement.result()), "it was not refused"
    announcement.outcome = Outcome.REFUSED
    assert guests.worth_publishing(announcement.result()) is worth
    elsewhere = replace(announcement.result(), port="gone")
    assert guests.worth_publishing(elsewhere), "nobody knows what its row gave"


def test_an_operator_is_told_why_there_is_nothing(world: World) -> None:
    assert World(replace(PORT, given=())).guests.by_hand("vhu0", None, 100.0) is None
    attached = World(replace(PORT, given=(), attached=True))
    attached.guests.learned("vhu0", (Station(OTHER), Station(MAC)), attached.now)
    assert attached.guests.by_hand("vhu0", None, attached.now) == Station(OTHER)
    ((mac, trigger, refusal),) = attached.announced()
    assert (mac, trigger, refusal.partition(":")[0]) == (OTHER, "manual", "mac-not-given")
    attached = World(replace(PORT, attached=True))
    attached.guests.learned("vhu0", (Station(OTHER),), attached.now)
    attached.guests.by_hand("vhu0", None, attached.now)
    assert attached.announced() == [(MAC, "manual", "")], "there is something else"
    world.guests.learned("vhu0", (Station(OTHER),), world.now)
    world.guests.by_hand("vhu0", None, 101.0)
    actions = world.guests.take_actions()
    assert [a.request.received_at for a in actions if isinstance(a, Announce)] == [101.0] * 2


def test_guests_that_come_from_elsewhere_are_told_of_whoever_announces_them() -> None:
    world = World(replace(PORT, policy=Policy(enabled=False)))
    world.guests.rarp("vhu0", OTHER, 99.5, world.now)
    world.runs()
    arrivals = [Arrival("vhu0", Trigger.SEND_RARP, 99.5), Arrival("vhu0", Trigger.MOVED_IN, 100.0)]
    assert world.guests.take_arrivals() == arrivals
    by_hand = world.now + ARRIVES_WITHIN + 0.1  # it runs here already
    world.guests.rarp("vhu0", OTHER, by_hand, by_hand)
    world.status("connected")
    world.runs()  # after a pause
    assert world.guests.take_arrivals() == []
    assert world.guests.take_actions() == [stopped(MAC, OTHER)]


def test_a_guest_whose_rings_began_before_its_send_rarp_was_heard_has_come(world: World) -> None:
    world.runs(0)
    at = world.now + ARRIVES_WITHIN
    world.guests.rarp("vhu0", OTHER, at, at)
    assert world.guests.take_arrivals() == [Arrival("vhu0", Trigger.SEND_RARP, at)]
    world.status("connected")
    world.runs(0)  # again, on this connection
    world.guests.rarp("vhu0", OTHER, at + 0.1, at + 0.1)
    assert world.guests.take_arrivals() == []
    world.status("listening")
    world.now = at + 0.1
    world.runs(0)  # another guest
    world.guests.rarp("vhu0", OTHER, world.now, world.now)
    assert world.guests.take_arrivals() == [Arrival("vhu0", Trigger.SEND_RARP, world.now)]
