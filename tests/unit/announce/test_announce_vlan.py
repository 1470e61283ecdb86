# SPDX-License-Identifier: Apache-2.0
"""Frames from one port's VLAN dress to another's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.announce.vlan import PortVlan, VlanMode, dress, tag_of, vlan_of

PLAIN = bytes(range(12)) + b"\x08\x00" + b"payload"


def tagged(vlan: int, priority: int = 0) -> bytes:
    return PLAIN[:12] + b"\x81\x00" + (priority << 13 | vlan).to_bytes(2, "big") + PLAIN[12:]


ACCESS_10 = PortVlan(VlanMode.ACCESS, 10)
NATIVE_10 = PortVlan(VlanMode.NATIVE_UNTAGGED, 10)
TAGGED_10 = PortVlan(VlanMode.NATIVE_TAGGED, 10)
TUNNEL_10 = PortVlan(VlanMode.DOT1Q_TUNNEL, 10)
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
        (PLAIN, TUNNEL_10, None),
    ],
)
def test_which_vlan_a_frame_left_the_bridge_in(frame, port, vlan):
    assert vlan_of(tag_of(frame), port) == vlan


@pytest.mark.parametrize(
    ("frame", "vlan", "port", "dressed"),
    [
        (PLAIN, 10, TRUNK, tagged(10)),
        (PLAIN, 10, ACCESS_10, PLAIN),
        (PLAIN, 20, ACCESS_10, None),
        (PLAIN, 0, TRUNK, PLAIN),
        (PLAIN, 10, NATIVE_10, PLAIN),
        (PLAIN, 20, NATIVE_10, tagged(20)),
        (PLAIN, 10, TAGGED_10, tagged(10)),
        (PLAIN, 10, TUNNEL_10, None),
        (tagged(20, 5), 20, TRUNK, tagged(20, 5)),
        (tagged(20), 20, PortVlan(VlanMode.ACCESS, 20), PLAIN),
        # the switch itself undresses what a bond sends
        (PLAIN, 10, PortVlan(VlanMode.ACCESS, 10, bond=True), tagged(10)),
        (PLAIN, 0, PortVlan(bond=True), PLAIN),
    ],
)
def test_how_it_leaves_on_another_port(frame, vlan, port, dressed):
    assert dress(frame, vlan, port) == dressed


@given(st.binary(min_size=14, max_size=80), st.integers(1, 4094))
def test_only_the_tag_changes(frame, vlan):
    there = dress(frame, vlan, TRUNK)
    assert there is not None and tag_of(there) == vlan
    back = dress(there, vlan, PortVlan(VlanMode.ACCESS, vlan))
    was_tagged = frame[12:14] == b"\x81\x00" and len(frame) >= 18
    assert back == (frame[:12] + frame[16:] if was_tagged else frame)
