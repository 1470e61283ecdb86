# SPDX-License-Identifier: Apache-2.0
"""Where ports are, and which MACs are whose."""

from dataclasses import replace

import pytest
from support.daemon.ports import PORT

from ovs_vhost_plugin.daemon.guests.places import Owners, location_of
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.ovsdb.row_values import parse_mac
from ovs_vhost_plugin.daemon.ovsdb.snapshot import Snapshot
from ovs_vhost_plugin.daemon.ovsdb.switch_row import Switch
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station
from ovs_vhost_plugin.net.vlan import PortVlan, VlanMode

MAC = bytes.fromhex("525400000001")
GIVEN = replace(PORT, name="vhu1", attached_mac=MAC.hex(":"))
SWITCH = Switch("/run/ovs", "", False, frozenset())


def test_a_location_is_what_the_rows_say() -> None:
    vlan = PortVlan(VlanMode.NATIVE_TAGGED, 10, frozenset({20}))
    port = replace(PORT, ofport=3, vlan=vlan)
    place = Location("br0", 3, "/run/ovs/br0.mgmt", vlan)
    assert location_of(port, "/run/ovs") == place
    assert location_of(PORT, "/run/ovs").ofport == -1
    assert location_of(replace(PORT, ovn=True), "/run/ovs").ovn


@pytest.mark.parametrize(
    ("other", "running", "refusal"),
    [
        (GIVEN, {"vhu1"}, "mac-foreign: vhu1's"),
        (replace(PORT, name="vhu1", addresses=(Station(MAC, 7),)), {"vhu1"}, "vhu1's"),
        # the guest is moving from there to here
        (GIVEN, set(), ""),
        (GIVEN, {"vhu0"}, ""),
        # another broadcast domain
        (replace(GIVEN, bridge="br1"), {"vhu1"}, ""),
        (replace(PORT, name="vhu1"), {"vhu1"}, ""),
    ],
)
def test_a_mac_is_anothers_if_a_row_gave_it_to_a_guest_that_runs_here(
    other: PortSpec, running: set[str], refusal: str
) -> None:
    snapshot = Snapshot(SWITCH, {"vhu0": PORT, "vhu1": other})
    found = Owners(snapshot).mac_conflict(MAC, "vhu0", running)
    assert found.endswith(refusal) and bool(found) == bool(refusal)


def test_a_mac_given_to_both_is_both_s() -> None:
    port = replace(PORT, addresses=(Station(MAC),))
    snapshot = Snapshot(SWITCH, {"vhu0": port, "vhu1": GIVEN})
    assert Owners(snapshot).mac_conflict(MAC, "vhu0", {"vhu0", "vhu1"}) == ""


def test_the_bridges_own_mac_is_nobodys_even_if_it_was_given() -> None:
    port = replace(PORT, addresses=(Station(MAC),))
    own = {"br0": {MAC.hex(":")}, "br1": {"52:54:00:00:00:02"}}
    snapshot = Snapshot(SWITCH, {"vhu0": port}, own_macs=own)
    owners = Owners(snapshot)
    assert owners.mac_conflict(MAC, "vhu0", {"vhu0"}) == "mac-foreign: the bridge's own"
    assert owners.mac_conflict(b"\x52\x54\0\0\0\2", "vhu0", {"vhu0"}) == ""


def test_what_rows_say_of_macs_is_seen_from_a_port() -> None:
    shared = Station(bytes.fromhex("525400000009"))
    here = replace(PORT, attached_mac="52:54:00:00:00:05", addresses=(shared,))
    there = replace(GIVEN, ofport=7, addresses=(shared,))
    waits = replace(PORT, name="vhu2", ofport=None, attached_mac=MAC.hex(":"))
    away = replace(PORT, name="vhu3", bridge="br1", attached_mac="52:54:00:00:00:06")
    ports = {"vhu0": here, "vhu1": there, "vhu2": waits, "vhu3": away}
    own = {"br0": {"52:54:00:00:00:0b", "52:54:00:00:00:0a"}}
    rows = Owners(Snapshot(SWITCH, ports, own_macs=own)).rows_at(here)
    assert rows.given == (Station(bytes.fromhex("525400000005")), shared)
    assert rows.others == {MAC: {7}}, "what is both's is ours"
    assert rows.own == bytes.fromhex("52540000000a")


@pytest.mark.parametrize("text", ["52:54:00:00:00:01", "5254.0000.0001", "52-54-00-00-00-01"])
def test_a_mac_is_read_in_any_usual_spelling(text: str) -> None:
    assert parse_mac(text) == MAC
    assert parse_mac(text + "0:0:0") is None
