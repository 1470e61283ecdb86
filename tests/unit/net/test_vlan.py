# SPDX-License-Identifier: Apache-2.0
"""Which VLANs a port carries, and how frames look on it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.net.ethernet import C_TAG, S_TAG, ethertype_of, tag_of
from ovs_vhost_plugin.net.vlan import PortVlan, VlanMode, ingress_frame, retag

PLAIN = bytes(range(12)) + b"\x08\x00" + b"payload"


def tagged(vlan: int, priority: int = 0, frame: bytes = PLAIN, tpid: bytes = C_TAG) -> bytes:
    return frame[:12] + tpid + (priority << 13 | vlan).to_bytes(2, "big") + frame[12:]


ACCESS_10 = PortVlan(VlanMode.ACCESS, 10)
NATIVE_10 = PortVlan(VlanMode.NATIVE_UNTAGGED, 10)
TAGGED_10 = PortVlan(VlanMode.NATIVE_TAGGED, 10)
TUNNEL_10 = PortVlan(VlanMode.DOT1Q_TUNNEL, 10)
CUSTOMERS = PortVlan(VlanMode.DOT1Q_TUNNEL, 10, cvlans=frozenset({20, 21}))
TRUNK = PortVlan()


@pytest.mark.parametrize(
    ("frame", "port", "vlan"),
    [
        (PLAIN, ACCESS_10, 10),
        (tagged(20), ACCESS_10, None),
        (PLAIN, TRUNK, 0),
        (tagged(20), TRUNK, 20),
        (PLAIN, NATIVE_10, 10),
        (tagged(20), NATIVE_10, 20),
        (tagged(10), TAGGED_10, 10),
        (tagged(20, tpid=S_TAG), TRUNK, 20),
        (PLAIN, TUNNEL_10, 10),
        (tagged(20), TUNNEL_10, 10),
        (tagged(20), CUSTOMERS, 10),
        (PLAIN, CUSTOMERS, None),
    ],
)
def test_which_vlan_a_frame_left_the_bridge_in(frame, port, vlan):
    assert port.egress_vlan_of(tag_of(frame)) == vlan


@pytest.mark.parametrize(
    ("frame", "origin", "port", "carried"),
    [
        (PLAIN, ACCESS_10, TRUNK, tagged(10)),
        (PLAIN, ACCESS_10, ACCESS_10, PLAIN),
        (PLAIN, ACCESS_10, PortVlan(VlanMode.ACCESS, 20), None),
        (tagged(20), ACCESS_10, TRUNK, None),
        (PLAIN, TRUNK, TRUNK, PLAIN),
        (PLAIN, ACCESS_10, NATIVE_10, PLAIN),
        (tagged(20), TRUNK, NATIVE_10, tagged(20)),
        (PLAIN, ACCESS_10, TAGGED_10, tagged(10)),
        (tagged(20, 5), TRUNK, TRUNK, tagged(20, 5)),
        (tagged(20), TRUNK, PortVlan(VlanMode.ACCESS, 20), PLAIN),
        # a service's tag is around the customer's, and has its priority
        (PLAIN, TUNNEL_10, TRUNK, tagged(10, tpid=S_TAG)),
        (tagged(20, 5), TUNNEL_10, TRUNK, tagged(10, 5, tagged(20, 5), S_TAG)),
        (tagged(20), TUNNEL_10, TUNNEL_10, tagged(20)),
        (tagged(10, 5, tagged(20, 5), S_TAG), TRUNK, TUNNEL_10, tagged(20, 5)),
        (tagged(20), TUNNEL_10, ACCESS_10, PLAIN),
        (tagged(20), CUSTOMERS, TRUNK, tagged(10, frame=tagged(20), tpid=S_TAG)),
        (PLAIN, CUSTOMERS, TRUNK, None),
        (PLAIN, TUNNEL_10, CUSTOMERS, None),
        (tagged(10, frame=tagged(20)), TRUNK, CUSTOMERS, tagged(20)),
        (tagged(10, frame=tagged(30)), TRUNK, CUSTOMERS, None),
        # the switch itself undresses what a bond sends
        (PLAIN, ACCESS_10, PortVlan(VlanMode.ACCESS, 10, bond=True), tagged(10)),
        (PLAIN, TRUNK, PortVlan(bond=True), PLAIN),
    ],
)
def test_how_it_leaves_on_another_port(frame, origin, port, carried):
    assert retag(frame, origin, port) == carried


@pytest.mark.parametrize(
    ("vlan", "port", "entering"),
    [
        (0, TRUNK, PLAIN),
        (20, TRUNK, tagged(20)),
        (10, ACCESS_10, PLAIN),
        (20, ACCESS_10, None),
        (10, PortVlan(VlanMode.ACCESS, 10, bond=True), PLAIN),
        (10, NATIVE_10, PLAIN),
        (20, NATIVE_10, tagged(20)),
        (10, TAGGED_10, tagged(10)),
        (10, TUNNEL_10, PLAIN),
        (10, CUSTOMERS, tagged(20)),
        (20, TUNNEL_10, None),
    ],
)
def test_how_one_has_to_come_in_to_be_in_a_vlan(vlan, port, entering):
    assert ingress_frame(PLAIN, vlan, port) == entering
    if entering is not None:
        assert port.vlan_of(tag_of(entering)) == vlan


@given(st.binary(min_size=14, max_size=80), st.integers(1, 4094))
def test_only_the_tag_changes(frame, vlan):
    access, tunnel = (PortVlan(mode, vlan) for mode in (VlanMode.ACCESS, VlanMode.DOT1Q_TUNNEL))
    plain = tag_of(frame) == 0
    for port in (tunnel, access) if plain else (tunnel,):
        there = retag(frame, port, TRUNK)
        assert there is not None and tag_of(there) == vlan
        was_tagged = port is access and is_tagged(frame)
        assert retag(there, TRUNK, port) == (frame[:12] + frame[16:] if was_tagged else frame)


def is_tagged(frame):
    return frame[12:14] in (C_TAG, S_TAG) and len(frame) >= 18


@pytest.mark.parametrize("length", range(14, 18))
def test_a_tag_that_is_cut_short_is_none(length):
    """A worker hands over what it likes."""
    assert tag_of((PLAIN[:12] + C_TAG + b"\x07\x07\x08")[:length]) == 0


def test_what_a_frame_carries():
    assert {ethertype_of(one) for one in (PLAIN, tagged(7), tagged(7, tpid=S_TAG))} == {b"\x08\0"}


TRUNKS_20 = PortVlan(trunks=frozenset({20}))
NATIVE_10_TRUNKS_20 = PortVlan(VlanMode.NATIVE_TAGGED, 10, frozenset({20}))


@pytest.mark.parametrize(
    ("port", "carried"),
    [
        (ACCESS_10, {0: 10}),
        (TRUNK, {0: 0, 10: 10, 20: 20}),
        (TRUNKS_20, {20: 20}),
        (TAGGED_10, {0: 10, 10: 10, 20: 20}),
        (NATIVE_10_TRUNKS_20, {0: 10, 10: 10, 20: 20}),
        (TUNNEL_10, {0: 10, 10: 10, 20: 10, 30: 10}),
        (CUSTOMERS, {20: 10}),
    ],
)
def test_which_vlan_a_frame_comes_in_to(port, carried):
    """As input_vid_is_valid() and input_vid_to_vlan() of Open vSwitch have it."""
    found = {tag: port.vlan_of(tag) for tag in (0, 10, 20)}
    assert found == {tag: carried.get(tag) for tag in (0, 10, 20)}
    assert {tag for tag in found if port.carries(tag)} == set(carried) & {0, 10, 20}


def test_a_native_tagged_port_sends_nothing_of_its_own_vlan_untagged():
    assert (TAGGED_10.vlan_of(0), TAGGED_10.egress_vlan_of(0)) == (10, 0)
    assert NATIVE_10_TRUNKS_20.egress_vlan_of(0) is None
    for trunks, vlan in (({0, 20}, 0), ({1, 20}, None)):
        port = PortVlan(VlanMode.NATIVE_TAGGED, 10, frozenset(trunks))
        assert port.egress_vlan_of(0) == vlan


def test_a_port_gets_no_frame_of_a_vlan_that_its_trunks_do_not_list():
    assert retag(tagged(10), TRUNK, TRUNKS_20) is None
    assert retag(tagged(20), TRUNK, TRUNKS_20) == tagged(20)
    assert retag(tagged(10), TRUNK, NATIVE_10_TRUNKS_20) == tagged(10)
