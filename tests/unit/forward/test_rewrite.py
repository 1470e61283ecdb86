# SPDX-License-Identifier: Apache-2.0
"""A held frame goes only to the guest, and shows nobody a sender for whom nobody vouches."""

from dataclasses import replace

import pytest

from ovs_vhost_plugin.forward.rewrite import SENDERS, Rows, Senders, Unfit, rewrite
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station, StationKey
from ovs_vhost_plugin.net.vlan import PortVlan, VlanMode
from ovs_vhost_plugin.openflow.wire import LONGEST_FRAME

GUEST = bytes.fromhex("525400000001")
CLIENT = bytes.fromhex("525400000077")
OWN = bytes.fromhex("0a0000000009")
HERE, THERE, THIRD = 3, 1, 2
PLACE = Location("br0", HERE, "/run/br0.mgmt")
VLANS = {number: PortVlan() for number in (HERE, THERE, THIRD)}
ROWS = Rows((Station(GUEST),), own=OWN)
IPV4, IPV6, ARP, PPPOE = b"\x08\x00", b"\x86\xdd", b"\x08\x06", b"\x88\x64"


def line(port, mac=CLIENT, vlan=0):
    return f"{port!s:>5} {vlan:>5}  {mac.hex(':')}    0\n"


def frame(kind, source=CLIENT, tag=None, to=GUEST):
    middle = b"" if tag is None else b"\x81\x00" + tag.to_bytes(2, "big")
    return to + source + middle + kind + b"data"


def sent(given, table, rows=ROWS, vlans=VLANS, place=PLACE):
    """What becomes of a frame whose receiver is THERE."""
    places = {StationKey(GUEST, tag): THERE for tag in (0, 7)}
    return rewrite(given, places, Senders(table, {HERE}), place, vlans, rows)


@pytest.mark.parametrize("tag", [None, 7])
@pytest.mark.parametrize("kind", [IPV4, IPV6, ARP, PPPOE])
@pytest.mark.parametrize("known", [THIRD, "LOCAL"])
def test_an_ip_packet_goes_as_the_hosts_and_others_as_their_senders(kind, tag, known):
    given = frame(kind, tag=tag)
    ip = kind in (IPV4, IPV6)
    expected = GUEST + OWN + given[12:] if ip else given
    assert sent(given, line(known, vlan=tag or 0)) == (expected, THERE)


@pytest.mark.parametrize("too_long", [0, 1])
def test_the_longest_frame_has_room_for_the_tag_of_the_port_where_it_goes(too_long):
    given = frame(IPV4)
    given += bytes(LONGEST_FRAME - 4 + too_long - len(given))
    place = replace(PLACE, vlan=PortVlan(VlanMode.ACCESS, 20))
    found = sent(given, line(THIRD, vlan=20), place=place)
    if too_long:
        assert found == Unfit.MALFORMED
    else:
        assert (len(found[0]), found[1]) == (LONGEST_FRAME, THERE)


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        ("", ROWS),  # aged out, or never learned
        (line(THIRD, vlan=5), ROWS),
        # who sees it there would learn that it is here, and is told otherwise at the same port
        (line(THERE), ROWS),
        # rows have it on a port where the bridge has it not
        (line(THIRD), Rows(ROWS.given, {CLIENT: {9}}, OWN)),
        (line(THIRD), Rows(ROWS.given, {CLIENT: set()}, OWN)),
    ],
)
def test_a_sender_for_whom_nobody_vouches_is_not_shown(table, rows):
    given = frame(ARP)
    assert sent(given, table, rows) == (GUEST + OWN + given[12:], THERE)


def test_a_sender_that_rows_and_bridge_have_on_the_same_port_is():
    rows = Rows(ROWS.given, {CLIENT: {THIRD}}, OWN)
    assert sent(frame(ARP), line(THIRD), rows) == (frame(ARP), THERE)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (frame(ARP, source=b"\x01\0\x5e\0\0\1"), Unfit.FROM_GROUP),
        (frame(ARP, source=b"\xff" * 6), Unfit.FROM_GROUP),
        (frame(ARP, source=GUEST), Unfit.FROM_GUEST),
        (frame(IPV4, source=GUEST), Unfit.FROM_GUEST),
        (frame(IPV4, source=b"\x52" * 6), Unfit.FROM_GUEST),  # behind its port
        (frame(ARP, to=b"\xff" * 6), Unfit.TO_STRANGER),
        (frame(ARP, to=CLIENT), Unfit.TO_STRANGER),
        (frame(ARP, tag=8), Unfit.TO_STRANGER),
        (frame(ARP)[:13], Unfit.MALFORMED),
        (frame(ARP) + bytes(70000), Unfit.MALFORMED),
    ],
)
def test_what_is_refused_has_a_name(given, name):
    assert sent(given, line(THIRD) + line(HERE, b"\x52" * 6)) is name


def test_a_port_that_does_not_carry_the_vlan_gets_nothing():
    vlans = {**VLANS, THERE: PortVlan(VlanMode.ACCESS, 10)}
    assert sent(frame(IPV4), "", vlans=vlans) is Unfit.TO_NO_VLAN


def test_a_host_without_an_address_sends_only_what_others_vouch_for():
    rows = Rows(ROWS.given)
    assert sent(frame(IPV4), line(THIRD), rows) == (frame(IPV4), THERE)
    assert sent(frame(IPV4), "", rows) is Unfit.FROM_NOBODY


def test_the_bridges_table_is_searched_for_so_many_senders_and_no_more():
    macs = [bytes([0x52, 0, 0, 0, 0, n]) for n in range(2 * SENDERS)]
    senders = Senders("".join(line(THIRD, mac) for mac in macs), {HERE})
    assert [senders.port_of(mac, 0) for mac in macs] == [THIRD] * SENDERS + [None] * SENDERS
    assert senders.port_of(macs[0], 0) == THIRD, "it is known already"


def test_a_host_without_an_address_shows_nobody_a_sender_at_its_own_port():
    rows = Rows(ROWS.given)
    assert sent(frame(ARP), line(THIRD), rows) == (frame(ARP), THERE)
    assert sent(frame(ARP), line(THERE), rows) is Unfit.FROM_NOBODY


def test_a_header_alone_is_a_frame():
    assert sent(frame(ARP)[:14], line(THIRD)) == (frame(ARP)[:14], THERE)
