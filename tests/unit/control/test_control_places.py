# SPDX-License-Identifier: Apache-2.0
"""Where ports are, and which MACs are whose."""

from dataclasses import replace

import pytest
from test_control_reconcile import PORT

from ovs_vhost_plugin.announce.addresses import Station
from ovs_vhost_plugin.announce.model import Location
from ovs_vhost_plugin.daemon.ovsdb import Snapshot
from ovs_vhost_plugin.daemon.places import foreign, location_of
from ovs_vhost_plugin.daemon.rows import PortSpec, Switch, parse_mac

MAC = bytes.fromhex("525400000001")
GIVEN = replace(PORT, name="vhu1", attached_mac=MAC.hex(":"))
SWITCH = Switch("/run/ovs", "", False, frozenset())


def test_a_location_is_what_the_rows_say() -> None:
    port = replace(PORT, ofport=3, tag=10, trunks=(20,), vlan_mode="native-tagged")
    place = Location("br0", 3, 10, "/run/ovs/br0.mgmt", "native-tagged", (20,))
    assert location_of(port, "/run/ovs") == place
    assert location_of(PORT, "/run/ovs").ofport == -1
    assert location_of(replace(PORT, ovn=True), "/run/ovs").ovn


@pytest.mark.parametrize(
    ("other", "running", "rarped", "refusal"),
    [
        (GIVEN, {"vhu1"}, {}, "mac-foreign: vhu1's"),
        (replace(PORT, name="vhu1", addresses=(Station(MAC, 7),)), {"vhu1"}, {}, "vhu1's"),
        (replace(PORT, name="vhu1"), {"vhu1"}, {"vhu1": MAC}, "mac-foreign: vhu1's"),
        # the guest is moving from there to here
        (GIVEN, set(), {}, ""),
        (GIVEN, {"vhu0"}, {}, ""),
        # another broadcast domain
        (replace(GIVEN, bridge="br1"), {"vhu1"}, {}, ""),
        (replace(PORT, name="vhu1"), {"vhu1"}, {"vhu1": b"\x52" * 6}, ""),
    ],
)
def test_a_mac_is_anothers_if_its_guest_runs_here(
    other: PortSpec, running: set[str], rarped: dict[str, bytes | None], refusal: str
) -> None:
    snapshot = Snapshot(SWITCH, {"vhu0": PORT, "vhu1": other})
    found = foreign(MAC, PORT, snapshot, running, rarped)
    assert found.endswith(refusal) and bool(found) == bool(refusal)


def test_a_mac_given_to_both_is_both_s() -> None:
    port = replace(PORT, addresses=(Station(MAC),))
    snapshot = Snapshot(SWITCH, {"vhu0": port, "vhu1": GIVEN})
    assert foreign(MAC, port, snapshot, {"vhu0", "vhu1"}, {}) == ""


def test_the_bridges_own_mac_is_nobodys_even_if_it_was_given() -> None:
    port = replace(PORT, addresses=(Station(MAC),))
    own = {"br0": {MAC.hex(":")}, "br1": {"52:54:00:00:00:02"}}
    snapshot = Snapshot(SWITCH, {"vhu0": port}, own_macs=own)
    assert foreign(MAC, port, snapshot, {"vhu0"}, {}) == "mac-foreign: the bridge's own"
    assert foreign(b"\x52\x54\0\0\0\2", port, snapshot, {"vhu0"}, {}) == ""


@pytest.mark.parametrize("text", ["52:54:00:00:00:01", "5254.0000.0001", "52-54-00-00-00-01"])
def test_a_mac_is_read_in_any_usual_spelling(text: str) -> None:
    assert parse_mac(text) == MAC
    assert parse_mac(text + "0:0:0") is None
