# SPDX-License-Identifier: Apache-2.0
"""Where a guest that left is, by the bridge's word, and what may follow it."""

import pytest

from ovs_vhost_plugin.forward.rewrite import Rows, Unfit
from ovs_vhost_plugin.forward.tracker import FLUSHES, HURRIES, MACS, PACE, MacTracker
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station, StationKey
from ovs_vhost_plugin.net.vlan import PortVlan, VlanMode
from ovs_vhost_plugin.openflow.wire import Output

GUEST = bytes.fromhex("525400000001")
STRANGER = bytes.fromhex("525400000077")
PLACE = Location("br0", 3, "/run/br0.mgmt")
HEAD = " port  VLAN  MAC                Age\n"
STATION = StationKey(GUEST, 0)
PLAIN = {3: PortVlan(), 1: PortVlan()}
CLIENT = b"\2" * 6
OWN = bytes.fromhex("0a0000000009")
ROWS = Rows(own=OWN)


def line(port, mac=GUEST, vlan=0):
    return f"{port!s:>5} {vlan:>5}  {mac.hex(':')}    0\n"


def frame(mac=GUEST, tag=None):
    middle = b"" if tag is None else b"\x81\x00" + tag.to_bytes(2, "big")
    return mac + OWN + middle + b"\x08\x00" + b"data"


def departed(*tables, stations=(STATION,), place=PLACE, rows=ROWS):
    tracker = MacTracker(0.0)
    tracker.table(HEAD + tables[0], place, rows, 0.0)
    tracker.hold(stations, 1.0)
    for n, table in enumerate(tables[1:]):
        tracker.table(HEAD + table, place, rows, 1.0 + n / 100)
    return tracker


def test_a_guest_that_the_bridge_had_here_is_followed_to_where_it_has_it_now():
    tracker = departed(line(3), line(3))
    assert tracker.new_ports == {}
    assert tracker.table(HEAD + line(1), PLACE, ROWS, 1.5)
    assert tracker.new_ports == {STATION: 1}
    assert tracker.rewrite([frame()], PLACE, PLAIN, ROWS) == [(frame(), 1)]
    assert not tracker.table(HEAD + line(1), PLACE, ROWS, 1.6)


@pytest.mark.parametrize("table", ["", line(3), line("LOCAL"), line(1, vlan=5), line(1, STRANGER)])
def test_nothing_goes_anywhere_while_the_bridge_does_not_say_where(table):
    tracker = departed(line(3), table)
    assert tracker.new_ports == {}
    assert tracker.rewrite([frame()], PLACE, PLAIN, ROWS) == [Unfit.TO_STRANGER]


def test_an_address_that_was_never_here_is_not_the_guests():
    other = StationKey(STRANGER, 0)
    tracker = departed(line(3), line(1) + line(1, STRANGER), stations=(STATION, other))
    assert tracker.new_ports == {STATION: 1}
    assert tracker.rewrite([frame(STRANGER), frame()], PLACE, PLAIN, ROWS) == [
        Unfit.TO_STRANGER,
        (frame(), 1),
    ]


def test_so_many_addresses_are_remembered_and_no_more():
    macs = [(0x5254_0000_0000 + n).to_bytes(6, "big") for n in range(MACS + 1)]
    ends = macs[MACS - 1], macs[MACS]
    tracker = departed(
        "".join(line(3, mac) for mac in macs),
        "".join(line(1, mac) for mac in ends),
        stations=tuple(StationKey(mac, 0) for mac in ends),
    )
    assert tracker.new_ports == {StationKey(ends[0], 0): 1}


def test_a_bridge_that_did_not_say_what_was_here_is_asked_again():
    tracker = MacTracker(0.0)
    tracker.no_table(1.0)
    assert tracker.get_timer() == pytest.approx(1.0 + PACE[0][1])
    tracker.table(HEAD + line(3), PLACE, ROWS, 1.1)
    assert tracker.get_timer() is None
    tracker.hold((STATION,), 2.0)
    tracker.table(HEAD + line(1), PLACE, ROWS, 2.0)
    assert tracker.new_ports == {STATION: 1}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ((), False),
        ((Station(GUEST),), True),
        ((Station(GUEST, 7),), False),  # in another VLAN
        ((Station(STRANGER),), False),
    ],
)
def test_the_rows_word_does_where_the_bridge_had_forgotten(given, named):
    tracker = departed("", line(1), rows=Rows(given, own=OWN))
    assert tracker.new_ports == ({STATION: 1} if named else {})


@pytest.mark.parametrize("trunks", [(), (20,), (20, 30)])
def test_a_mac_of_a_row_is_the_guests_in_the_vlans_of_its_port_and_in_no_other(trunks):
    place = Location("br0", 3, "/run/br0.mgmt", PortVlan(trunks=frozenset(trunks)))
    stations = tuple(StationKey(GUEST, vlan) for vlan in (0, 20, 30))
    there = "".join(line(1, vlan=vlan) for vlan in (0, 20, 30))
    tracker = MacTracker(0.0)
    tracker.hold(stations, 1.0)
    tracker.table(HEAD + there, place, Rows((Station(GUEST),)), 1.0)
    assert tracker.new_ports == {StationKey(GUEST, vlan): 1 for vlan in trunks or (0,)}


@pytest.mark.parametrize(
    "looked", ["in the hold", "never before", "at the same time", "asked in it"]
)
def test_what_the_bridge_learns_here_in_a_hold_is_nobodys(looked):
    """Or a worker would say when the migration begins, after its guest has claimed the address."""
    tracker = MacTracker(0.0)
    if looked == "in the hold":
        tracker.table(HEAD, PLACE, ROWS, 0.0)
    tracker.hold((STATION,), 0.0 if looked == "at the same time" else 1.0)
    if looked == "asked in it":
        tracker.ask()
    for _ in range(3):
        tracker.table(HEAD + line(3), PLACE, ROWS, 1.0)
    tracker.table(HEAD + line(1), PLACE, ROWS, 1.1)
    assert tracker.new_ports == {}


def test_a_table_that_was_asked_for_before_the_hold_counts_when_it_comes():
    """A busy switch answers late."""
    tracker = MacTracker(0.0)
    tracker.ask()
    tracker.hold((STATION,), 0.5)
    tracker.table(HEAD + line(3), PLACE, ROWS, 1.0)
    tracker.ask()
    tracker.table(HEAD + line(1), PLACE, ROWS, 1.1)
    assert tracker.new_ports == {STATION: 1}


def test_a_switch_that_did_not_answer_in_time_has_not_said_what_was_here():
    tracker = MacTracker(0.0)
    tracker.ask()
    tracker.no_table(0.5)
    tracker.hold((STATION,), 0.5)
    for table in (line(3), line(1)):
        tracker.table(HEAD + table, PLACE, ROWS, 1.0)
    assert tracker.new_ports == {}


def test_what_rows_give_to_another_port_is_not_this_ones_though_the_bridge_has_it_here():
    rows = Rows(others={GUEST: {1}}, own=OWN)
    assert departed(line(3), line(1), rows=rows).new_ports == {}


def test_a_table_that_goes_back_to_this_port_counts_frames_of_before():
    tracker = departed(line(3), line(1))
    assert not tracker.table(HEAD + line(3), PLACE, ROWS, 2.0)
    assert tracker.new_ports == {STATION: 1}
    tracker.table(HEAD + line(2), PLACE, ROWS, 2.1)
    assert tracker.new_ports == {STATION: 2}
    tracker.table(HEAD, PLACE, ROWS, 2.2)
    assert tracker.new_ports == {}


def test_group_and_crippled_frames_never_go():
    tracker = departed(line(3), line(1))
    frames = [b"\xff" * 6 + frame()[6:], frame()[:13], GUEST + bytes(70000)]
    assert tracker.rewrite(frames, PLACE, PLAIN, ROWS) == [
        Unfit.TO_STRANGER,
        Unfit.MALFORMED,
        Unfit.MALFORMED,
    ]


def test_each_vlan_is_found_by_itself():
    stations = tuple(StationKey(GUEST, tag) for tag in (0, 10, 20))
    here = line(3) + line(3, vlan=10) + line(3, vlan=20)
    tracker = departed(here, line(1) + line(1, vlan=10) + line(3, vlan=20), stations=stations)
    frames = [frame(), frame(tag=10), frame(tag=20)]
    assert tracker.rewrite(frames, PLACE, PLAIN, ROWS) == [
        (frame(), 1),
        (frame(tag=10), 1),
        Unfit.TO_STRANGER,
    ]


def test_an_access_ports_frames_are_tagged_on_a_trunk_and_not_on_their_vlans_access_port():
    access = PortVlan(VlanMode.ACCESS, 10)
    place = Location("br0", 3, "/run/br0.mgmt", access)
    for target, expected in ((PortVlan(), frame(tag=10)), (access, frame())):
        vlans = {3: access, 1: target}
        tracker = departed(line(3, vlan=10), line(1, vlan=10), place=place)
        assert tracker.rewrite([frame()], place, vlans, ROWS) == [(expected, 1)]


def test_of_a_bond_the_switch_chooses_the_member():
    vlans = {3: PortVlan(), 1: PortVlan(bond=True)}
    tracker = departed(line(3), line(1))
    assert tracker.rewrite([frame()], PLACE, vlans, ROWS) == [(frame(), Output.NORMAL)]


def settles(tracker):
    return tracker.flush_frame(b"\x02" * 6, PLACE) is not None


def test_a_sighting_is_a_reason_to_look_now_and_again_and_then_to_have_the_bridge_count():
    tracker = departed(line(3), line(3))
    assert settles(tracker) and not settles(tracker)
    tracker.hold((STATION,), 2.0, sighted=1)
    assert tracker.get_timer() == 2.0
    tracker.table(HEAD + line(3), PLACE, ROWS, 2.001)
    assert tracker.get_timer() == 2.001, "this table may have been asked for before"
    assert not settles(tracker)
    tracker.table(HEAD + line(3), PLACE, ROWS, 2.002)
    assert tracker.get_timer() > 2.002
    assert settles(tracker) and not settles(tracker)
    tracker.hold((STATION,), 2.5, sighted=1)
    assert tracker.get_timer() < 2.5, "nothing new"


def test_the_frame_that_makes_the_bridge_count_is_a_whole_one_to_an_address_that_is_here():
    nobody = bytes.fromhex("020000000001")
    frame = departed(line(3), line(3)).flush_frame(nobody, PLACE)
    assert frame == GUEST + nobody + b"\x88\xb5" + bytes(46)


def test_a_sighting_that_the_table_explains_settles_nothing():
    tracker = departed(line(3), line(3))
    assert settles(tracker)
    for sighted in (1, 2):
        tracker.hold((STATION,), 2.0, sighted)
        tracker.table(HEAD + line(1), PLACE, ROWS, 2.0)
        tracker.table(HEAD + line(1) + line(3, STRANGER), PLACE, ROWS, 2.1)
    assert not settles(tracker)


def test_the_bridge_is_made_to_count_only_so_often():
    tracker = departed(line(3), line(3))
    counted = 0
    for sighted in range(1, 3 * FLUSHES):
        counted += settles(tracker)
        tracker.hold((STATION,), 2.0, sighted)
        for _ in range(2):
            tracker.table(HEAD + line(3), PLACE, ROWS, 2.0)
    assert counted == FLUSHES


def test_whose_the_addresses_were_is_settled_by_the_first_table():
    tracker = MacTracker(0.0)
    tracker.table(HEAD + line(3), PLACE, ROWS, 0.0)
    tracker.table(HEAD + line(3, STRANGER), PLACE, ROWS, 0.1)
    tracker.hold((STATION, StationKey(STRANGER, 0)), 1.0)
    tracker.table(HEAD + line(1) + line(1, STRANGER), PLACE, ROWS, 1.0)
    assert tracker.new_ports == {STATION: 1}


def test_a_table_that_fails_later_is_not_asked_for_again_before_a_hold():
    tracker = MacTracker(0.0)
    tracker.table(HEAD + line(3), PLACE, ROWS, 0.0)
    tracker.no_table(1.0)
    assert tracker.get_timer() is None


def test_the_pace_changes_when_its_time_is_over():
    tracker = departed(line(3))  # holds from 1.0 on
    for age, seconds in ((1.999, PACE[0][1]), (2.0, PACE[1][1]), (4.0, PACE[2][1])):
        tracker.table(HEAD + line(3), PLACE, ROWS, 1.0 + age)
        assert tracker.get_timer() == pytest.approx(1.0 + age + seconds)


def test_the_table_is_read_while_there_is_something_to_forward_and_ever_more_rarely():
    tracker = MacTracker(0.0)
    assert tracker.get_timer() == 0.0
    tracker.table(HEAD, PLACE, ROWS, 0.0)
    assert tracker.get_timer() is None  # it migrates, and nothing is held yet
    tracker.hold((), 5.0)
    assert tracker.get_timer() == 5.0
    tracker.table(HEAD, PLACE, ROWS, 5.0)
    assert tracker.get_timer() is None
    tracker.hold((STATION,), 5.1)
    assert tracker.get_timer() == 5.1
    for until, seconds in PACE:
        now = 5.0 + min(until, 60.0) - 0.5
        tracker.table(HEAD, PLACE, ROWS, now)
        assert tracker.get_timer() == pytest.approx(now + seconds)
    tracker.no_table(70.0)
    assert tracker.get_timer() == pytest.approx(70.0 + PACE[-1][1])


def test_a_worker_makes_the_bridge_be_asked_out_of_turn_only_so_often():
    tracker = departed(line(3), line(3))
    hurried = 0
    for n in range(1, 3 * HURRIES):
        tracker.hold(() if n % 2 else (STATION,), 2.0, sighted=n)
        hurried += tracker.get_timer() == 2.0
        for _ in range(2):
            tracker.table(HEAD + line(3), PLACE, ROWS, 2.0)
    assert 0 < hurried <= HURRIES


def test_so_often_a_sighting_is_believed_at_once():
    tracker = MacTracker(0.0)
    tracker.table(HEAD + line(3), PLACE, ROWS, 0.0)
    tracker.hold((), 1.0)
    hurried = 0
    for sighted in range(1, 2 * HURRIES):
        tracker.table(HEAD + line(1), PLACE, ROWS, 2.0)
        tracker.hold((), 3.0, sighted)
        hurried += tracker.get_timer() == 3.0
    assert hurried == HURRIES
