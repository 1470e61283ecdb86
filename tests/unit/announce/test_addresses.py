# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.announce.addresses import MAX_STATIONS, AddressError, parse, spread
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import MAX_IPS, Station, is_host, merge
from ovs_vhost_plugin.net.vlan import PortVlan, VlanMode

MAC = bytes.fromhex("525400123456")
OTHER = bytes.fromhex("525400123457")


def ip(text: str) -> bytes:
    return ip_address(text).packed


def at(
    tag: int | None = None,
    mode: str = "",
    trunks: tuple[int, ...] = (),
    cvlans: tuple[int, ...] = (),
) -> Location:
    default = VlanMode.TRUNK if tag is None else VlanMode.ACCESS
    vlan = PortVlan(VlanMode(mode or default), tag or 0, frozenset(trunks), frozenset(cvlans))
    return Location("br0", 1, "/run/br0.mgmt", vlan)


def test_automation_gives_stations():
    text = (
        "52:54:00:12:34:56 192.0.2.1 2001:db8::1 fe80::1 ; "
        "52:54:00:12:34:57 vlan=10 router 192.0.2.2;52:54:00:12:34:56 192.0.2.3;"
    )
    assert parse(text) == (
        Station(MAC, 0, (ip("192.0.2.1"), ip("192.0.2.3")), (ip("2001:db8::1"), ip("fe80::1"))),
        Station(OTHER, 10, (ip("192.0.2.2"),), router=True),
    )
    assert parse("") == ()


def test_the_most_that_may_be_given():
    macs = [f"52:54:00:00:00:{number:02x} vlan=4094" for number in range(MAX_STATIONS)]
    assert len(parse("; ".join(macs))) == MAX_STATIONS
    with pytest.raises(AddressError, match="too-many"):
        parse("; ".join([*macs, "52:54:00:00:01:00"]))


@pytest.mark.parametrize("word", ["fe80::1%eth0", "vlan=\N{ARABIC-INDIC DIGIT ONE}"])
def test_what_only_looks_like_an_address_or_a_vlan(word):
    with pytest.raises(AddressError):
        parse(f"52:54:00:12:34:56 {word}")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("192.0.2.1", "addresses-mac-invalid"),
        ("52:54:00:12:34", "addresses-mac-invalid"),
        ("00:00:00:00:00:00", "addresses-mac-invalid"),
        ("ff:ff:ff:ff:ff:ff 192.0.2.1", "addresses-mac-invalid"),
        ("01:00:5e:00:00:01", "addresses-mac-invalid"),
        ("52:54:00:12:34:56 vlan=4095", "addresses-vlan-invalid"),
        ("52:54:00:12:34:56 vlan=", "addresses-vlan-invalid"),
        ("52:54:00:12:34:56 192.0.2", "addresses-word-invalid"),
        ("52:54:00:12:34:56 224.0.0.1", "addresses-word-invalid"),
        ("52:54:00:12:34:56 ::", "addresses-word-invalid"),
        ("52:54:00:12:34:56 ff02::1", "addresses-word-invalid"),
        ("52:54:00:12:34:56 127.0.0.1", "addresses-word-invalid"),
        ("52:54:00:12:34:56, 192.0.2.1", "addresses-mac-invalid"),
        ("; ".join(f"52:54:00:00:00:{n:02x}" for n in range(33)), "addresses-too-many"),
    ],
)
def test_what_is_wrong_has_a_name_and_advice(text, name):
    with pytest.raises(AddressError) as wrong:
        parse(text)
    assert wrong.value.name == name
    assert 10 < len(wrong.value.text) < 160


@given(
    st.text()
    | st.lists(st.sampled_from(["52:54:00:12:34:56", "vlan=1", "::1", ";", " "])).map("".join)
)
def test_any_text_is_a_list_of_hosts_or_a_named_error(text):
    try:
        stations = parse(text)
    except AddressError as wrong:
        assert str(wrong).startswith(wrong.name)
        return
    for one in stations:
        assert any(one.mac) and not one.mac[0] & 1 and 0 <= one.vlan <= 4094
        assert all(is_host(address, 4) for address in one.ipv4)
        assert all(is_host(address, 16) for address in one.ipv6)


STATION = st.builds(
    Station,
    mac=st.integers(0, 40).map(lambda n: b"\x52\x54\0\0\0" + bytes([n])),
    vlan=st.sampled_from([0, 7, 10]),
    ipv4=st.lists(st.binary(min_size=4, max_size=4), max_size=6).map(tuple),
    router=st.booleans(),
)


@given(st.lists(STATION))
def test_merging_keeps_every_mac_and_vlan_once_in_order_and_is_bounded(stations):
    merged = merge(stations)
    keys = [(one.mac, one.vlan) for one in merged]
    assert keys == list(dict.fromkeys((one.mac, one.vlan) for one in stations))
    assert merge(merged) == merged
    for one in merged:
        same = [given for given in stations if (given.mac, given.vlan) == (one.mac, one.vlan)]
        assert one.router == any(given.router for given in same)
        assert set(one.ipv4) <= {address for given in same for address in given.ipv4}
        assert len(one.ipv4) <= MAX_IPS


@pytest.mark.parametrize(
    ("place", "used", "announced"),
    [
        (at(), [0], [0]),
        (at(), [0, 10], [0, 10]),
        (at(tag=10), [0], [0]),
        (at(tag=10), [0, 10, 20], [0]),  # the bridge drops what an access port's guest tags
        (at(tag=10, mode="access", trunks=(20,)), [0, 20], [0]),
        (at(mode="trunk", trunks=(10, 20)), [0, 30], [10, 20]),
        (at(mode="trunk", trunks=(0, 10)), [0], [0, 10]),
        (at(tag=5, mode="native-untagged", trunks=(10, 20)), [0], [0, 10, 20]),
        (at(tag=5, mode="native-tagged", trunks=(10,)), [0, 10], [0, 10]),
        (at(tag=5, mode="native-tagged"), [0, 5, 10], [0, 10]),  # 0 and 5 are one VLAN
        # one VLAN for the bridge, and two for the customer's switches
        (at(tag=5, mode="dot1q-tunnel"), [0, 10], [0, 10]),
        (at(tag=5, mode="dot1q-tunnel", cvlans=(10, 20)), [0, 30], [10, 20]),
        (at(tag=5, mode="dot1q-tunnel", trunks=(10,), cvlans=(0, 20)), [0, 10], [0, 20]),
    ],
)
def test_what_the_port_carries_is_announced_once_in_each_vlan(place, used, announced):
    stations = tuple(Station(MAC, vlan) for vlan in used)
    assert [one.vlan for one in spread(stations, place)] == announced


def test_a_spread_keeps_ips_where_they_were_seen_and_is_bounded():
    seen = Station(MAC, 0, (ip("192.0.2.1"),))
    first, second = spread([seen], at(mode="trunk", trunks=(0, 10)))
    assert (first, second) == (seen, Station(MAC, 10))
    many = [Station(b"\x52\x54\0\0\0" + bytes([n])) for n in range(30)]
    assert (
        len(spread(many, at(tag=1, mode="native-tagged", trunks=tuple(range(2, 12)))))
        == MAX_STATIONS
    )
    for count, most in ((MAX_STATIONS - 1, MAX_STATIONS), (MAX_STATIONS, 1)):
        assert len(spread([seen], at(mode="trunk", trunks=tuple(range(count + 1))))) == most
    # A port that carries nearly all VLANs says nothing of which the guest uses.
    assert spread([seen], at(mode="trunk", trunks=tuple(range(4095)))) == (seen,)


@pytest.mark.parametrize(
    "place",
    [
        at(tag=4095),
        at(mode="trunk", trunks=(4095,)),
        at(tag=4095, mode="native-tagged", trunks=(4095,)),
        at(tag=4095, mode="native-untagged"),
        at(tag=4095, mode="dot1q-tunnel", cvlans=(7,)),
    ],
)
def test_nothing_is_announced_into_the_reserved_vlan(place: Location):
    """Neutron gives it to ports that are not wired yet."""
    assert [one.vlan for one in spread([Station(MAC), Station(MAC, 7)], place)] in ([], [7])


def test_the_last_vlan_that_is_not_reserved_is_one_like_others():
    assert spread([Station(MAC, 4094)], at()) == (Station(MAC, 4094),)


def test_where_a_frame_is_learned():
    assert (at().vlan.vlan_of(0), at(tag=10).vlan.vlan_of(0)) == (0, 10)
    assert at(tag=5, mode="native-untagged").vlan.vlan_of(7) == 7
    assert at(tag=5, mode="dot1q-tunnel").vlan.vlan_of(7) == 5
    assert at(tag=5, mode="dot1q-tunnel", cvlans=(20,)).vlan.vlan_of(7) is None


def test_a_port_has_moved_when_the_switch_has_to_learn_anew():
    here = at(tag=10)
    assert not here.moved_to(here)
    assert here.moved_to(at(tag=11)) and here.moved_to(at())
    assert here.moved_to(at(tag=10, mode="native-tagged"))
    assert here.moved_to(replace(here, vlan=replace(here.vlan, cvlans=frozenset({7}))))
    assert here.moved_to(replace(here, bridge="br1"))
    assert here.moved_to(replace(here, ofport=2))
    assert not here.moved_to(replace(here, ofport=-1)), "ovs-vswitchd restarts"
    assert not replace(here, ofport=-1).moved_to(here)
    assert here.moved_to(replace(here, ovn=True)), "OVN has bound it"
    assert not replace(here, ovn=True).moved_to(here)
