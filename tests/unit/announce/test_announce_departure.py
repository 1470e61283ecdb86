# SPDX-License-Identifier: Apache-2.0
"""Where a guest that left is, by the bridge's word, and what may follow it."""

import pytest

from ovs_vhost_plugin.announce.departure import PACE, SETTLINGS, Departure
from ovs_vhost_plugin.announce.model import Location
from ovs_vhost_plugin.announce.vlan import PortVlan, VlanMode
from ovs_vhost_plugin.announce.wire import Output

GUEST = bytes.fromhex("525400000001")
STRANGER = bytes.fromhex("525400000077")
PLACE = Location("br0", 3, None, "/run/br0.mgmt")
HEAD = " port  VLAN  MAC                Age\n"
STATION = GUEST.hex() + ".0"
PLAIN = {3: PortVlan(), 1: PortVlan()}


def line(port, mac=GUEST, vlan=0):
    return f"{port!s:>5} {vlan:>5}  {mac.hex(':')}    0\n"


def frame(mac=GUEST, tag=None):
    middle = b"" if tag is None else b"\x81\x00" + tag.to_bytes(2, "big")
    return mac + b"\2" * 6 + middle + b"\x08\x00" + b"data"


def departed(*tables, stations=(STATION,), vlans=PLAIN, macs=()):
    departure = Departure(0.0)
    departure.table(HEAD + tables[0], PLACE, vlans, macs, 0.0)
    departure.hold(stations, 1.0)
    for n, table in enumerate(tables[1:]):
        departure.table(HEAD + table, PLACE, vlans, macs, 1.0 + n / 100)
    return departure


def test_a_guest_that_the_bridge_had_here_is_followed_to_where_it_has_it_now():
    departure = departed(line(3), line(3))
    assert departure.places == {}
    assert departure.table(HEAD + line(1), PLACE, PLAIN, (), 1.5)
    assert departure.places == {STATION: 1}
    assert departure.parcels([frame()], PLACE, PLAIN) == [(frame(), 1)]
    assert not departure.table(HEAD + line(1), PLACE, PLAIN, (), 1.6)


@pytest.mark.parametrize("table", ["", line(3), line("LOCAL"), line(1, vlan=5), line(1, STRANGER)])
def test_nothing_goes_anywhere_while_the_bridge_does_not_say_where(table):
    departure = departed(line(3), table)
    assert departure.places == {}
    assert departure.parcels([frame()], PLACE, PLAIN) == [None]


def test_an_address_that_was_never_here_is_not_the_guests():
    other = STRANGER.hex() + ".0"
    departure = departed(line(3), line(1) + line(1, STRANGER), stations=(STATION, other))
    assert departure.places == {STATION: 1}
    assert departure.parcels([frame(STRANGER), frame()], PLACE, PLAIN) == [None, (frame(), 1)]


def test_a_bridge_that_did_not_say_what_was_here_is_asked_again():
    departure = Departure(0.0)
    departure.no_table(1.0)
    assert departure.look_at == pytest.approx(1.0 + PACE[0][1])
    departure.table(HEAD + line(3), PLACE, PLAIN, (), 1.1)
    assert departure.look_at is None
    departure.hold((STATION,), 2.0)
    departure.table(HEAD + line(1), PLACE, PLAIN, (), 2.0)
    assert departure.places == {STATION: 1}


def test_the_hypervisors_word_does_where_the_bridge_had_forgotten():
    assert departed("", line(1)).places == {}
    assert departed("", line(1), macs=(GUEST,)).places == {STATION: 1}


def test_a_table_that_goes_back_to_this_port_counts_frames_of_before():
    departure = departed(line(3), line(1))
    assert not departure.table(HEAD + line(3), PLACE, PLAIN, (), 2.0)
    assert departure.places == {STATION: 1}
    departure.table(HEAD + line(2), PLACE, PLAIN, (), 2.1)
    assert departure.places == {STATION: 2}
    departure.table(HEAD, PLACE, PLAIN, (), 2.2)
    assert departure.places == {}


@pytest.mark.parametrize("tag", [None, 7])
@pytest.mark.parametrize("kind", [b"\x08\x00", b"\x86\xdd", b"\x08\x06", b"\x88\x63"])
def test_an_ip_packet_is_sent_as_the_hosts_and_nothing_else(tag, kind):
    own, sent = (
        bytes.fromhex("0a0000000009"),
        frame(tag=tag).replace(b"\x08\x00data", kind + b"data"),
    )
    stations = (f"{GUEST.hex()}.{tag or 0}",)
    here = line(3, vlan=tag or 0)
    departure = departed(here, line(1, vlan=tag or 0), stations=stations)
    ((forwarded, _),) = departure.parcels([sent], PLACE, PLAIN, own)
    ip = kind in (b"\x08\x00", b"\x86\xdd")
    assert forwarded == (GUEST + own + sent[12:] if ip else sent)


def test_group_and_crippled_frames_never_go():
    departure = departed(line(3), line(1))
    frames = [b"\xff" * 6 + frame()[6:], frame()[:13], GUEST + bytes(70000)]
    assert departure.parcels(frames, PLACE, PLAIN) == [None, None, None]


def test_each_vlan_is_found_by_itself():
    stations = tuple(f"{GUEST.hex()}.{tag}" for tag in (0, 10, 20))
    here = line(3) + line(3, vlan=10) + line(3, vlan=20)
    departure = departed(here, line(1) + line(1, vlan=10) + line(3, vlan=20), stations=stations)
    frames = [frame(), frame(tag=10), frame(tag=20)]
    assert departure.parcels(frames, PLACE, PLAIN) == [(frame(), 1), (frame(tag=10), 1), None]


def test_an_access_ports_frames_are_tagged_on_a_trunk_and_not_on_their_vlans_access_port():
    place = Location("br0", 3, 10, "/run/br0.mgmt")
    access = PortVlan(VlanMode.ACCESS, 10)
    for target, expected in ((PortVlan(), frame(tag=10)), (access, frame())):
        vlans = {3: access, 1: target}
        departure = departed(line(3, vlan=10), line(1, vlan=10), vlans=vlans)
        assert departure.parcels([frame()], place, vlans) == [(expected, 1)]


def test_of_a_bond_the_switch_chooses_the_member():
    vlans = {3: PortVlan(), 1: PortVlan(bond=True)}
    departure = departed(line(3), line(1), vlans=vlans)
    assert departure.parcels([frame()], PLACE, vlans) == [(frame(), Output.NORMAL)]


def settles(departure):
    return departure.settling(b"\x02" * 6, PLACE, PLAIN) is not None


def test_a_sighting_is_a_reason_to_look_now_and_again_and_then_to_have_the_bridge_count():
    departure = departed(line(3), line(3))
    assert settles(departure) and not settles(departure)
    departure.hold((STATION,), 2.0, sighted=1)
    assert departure.look_at == 2.0
    departure.table(HEAD + line(3), PLACE, PLAIN, (), 2.001)
    assert departure.look_at == 2.001, "this table may have been asked for before"
    assert not settles(departure)
    departure.table(HEAD + line(3), PLACE, PLAIN, (), 2.002)
    assert departure.look_at > 2.002
    assert settles(departure) and not settles(departure)
    departure.hold((STATION,), 2.5, sighted=1)
    assert departure.look_at < 2.5, "nothing new"


def test_a_sighting_that_the_table_explains_settles_nothing():
    departure = departed(line(3), line(3))
    assert settles(departure)
    for sighted in (1, 2):
        departure.hold((STATION,), 2.0, sighted)
        departure.table(HEAD + line(1), PLACE, PLAIN, (), 2.0)
        departure.table(HEAD + line(1) + line(3, STRANGER), PLACE, PLAIN, (), 2.1)
    assert not settles(departure)


def test_the_bridge_is_made_to_count_only_so_often():
    departure = departed(line(3), line(3))
    counted = 0
    for sighted in range(1, 3 * SETTLINGS):
        counted += settles(departure)
        departure.hold((STATION,), 2.0, sighted)
        for _ in range(2):
            departure.table(HEAD + line(3), PLACE, PLAIN, (), 2.0)
    assert counted == SETTLINGS


def test_the_table_is_read_while_there_is_something_to_forward_and_ever_more_rarely():
    departure = Departure(0.0)
    assert departure.look_at == 0.0
    departure.table(HEAD, PLACE, PLAIN, (), 0.0)
    assert departure.look_at is None  # it migrates, and nothing is held yet
    departure.hold((), 5.0)
    assert departure.look_at == 5.0
    departure.table(HEAD, PLACE, PLAIN, (), 5.0)
    assert departure.look_at is None
    departure.hold((STATION,), 5.1)
    assert departure.look_at == 5.1
    for until, seconds in PACE:
        now = 5.0 + min(until, 60.0) - 0.5
        departure.table(HEAD, PLACE, PLAIN, (), now)
        assert departure.look_at == pytest.approx(now + seconds)
    departure.no_table(70.0)
    assert departure.look_at == pytest.approx(70.0 + PACE[-1][1])
