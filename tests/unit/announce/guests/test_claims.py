# SPDX-License-Identifier: Apache-2.0
"""What a port announces of what its peers say, and what rows would have to say first."""

from dataclasses import replace
from typing import Any

import pytest
from support.daemon.ports import PORT

from ovs_vhost_plugin.announce.guests.claims import NotGiven, Sorted, sort_out
from ovs_vhost_plugin.announce.policy import Policy
from ovs_vhost_plugin.daemon.guests.places import Owners
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import Switch
from ovs_vhost_plugin.daemon.ovsdb.snapshot import Snapshot
from ovs_vhost_plugin.net.station import Station
from ovs_vhost_plugin.net.vlan import PortVlan
from ovs_vhost_plugin.openflow.wire import Output

MAC, OTHER = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
IP, MORE = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])
ATTACHED = {"attached_mac": MAC.hex(":")}
TRUNKS_7 = {"vlan": PortVlan(trunks=frozenset({7}))}
NORMAL = {"announce": Policy(output=Output.NORMAL)}
Refused = tuple[tuple[Station, NotGiven], ...]


def sort(*claims: Station, by_hand: bytes | None = None, **row: Any) -> Sorted:
    snapshot = Snapshot(Switch("/run", "", False, frozenset()))
    return sort_out(Owners(snapshot).guest_port(replace(PORT, **row)), claims, by_hand)


def test_without_a_row_claims_are_announced_as_the_guests_own_frames_would_be() -> None:
    assert sort(Station(MAC), Station(OTHER, 7)) == Sorted((Station(MAC), Station(OTHER, 7)))
    given = (Station(MAC, ipv4=(IP,)),)
    assert sort(Station(OTHER), addresses=given).allowed == (*given, Station(OTHER))


def test_with_attached_mac_no_other_mac_is_announced_but_all_that_is_known_of_it() -> None:
    known = Station(MAC, 7, ipv4=(IP,))
    found = sort(Station(MAC, ipv4=(IP,)), known, Station(OTHER), **ATTACHED)
    assert found.allowed == (Station(MAC, ipv4=(IP,)), known)
    assert found.refused == ((Station(OTHER), NotGiven.MAC),)
    found = sort(Station(OTHER, 7), **ATTACHED, addresses=(Station(OTHER),))
    assert (found.allowed, found.refused) == ((Station(MAC), Station(OTHER), Station(OTHER, 7)), ())


def test_an_attached_mac_that_cannot_be_read_lets_nothing_through() -> None:
    assert sort(Station(MAC), attached_mac="none").refused == ((Station(MAC), NotGiven.MAC),)


@pytest.mark.parametrize(
    ("claim", "row", "refused"),
    [
        (Station(MAC), {}, NotGiven.MAC),
        (Station(OTHER), ATTACHED, NotGiven.MAC),
        (Station(MAC), ATTACHED, None),
        (Station(MAC, 7), ATTACHED, NotGiven.VLAN),
        (Station(MAC, 7), {**ATTACHED, **TRUNKS_7}, None),
        (Station(MAC, 7), {"addresses": (Station(MAC, 7),)}, None),
        (
            Station(MAC, 7, (IP,)),
            {**ATTACHED, **TRUNKS_7},
            NotGiven.IP,
        ),
        (Station(MAC, 0, (IP,)), ATTACHED, NotGiven.IP),
        (Station(MAC, 0, (IP,)), {"addresses": (Station(MAC, 0, (IP,)),)}, None),
        (Station(MAC, 0, (IP, MORE)), {"addresses": (Station(MAC, 0, (IP,)),)}, NotGiven.IP),
        (Station(MAC, router=True), ATTACHED, None),
    ],
)
def test_past_the_flow_table_goes_what_rows_give_and_nothing_of_a_claim(
    claim: Station, row: dict[str, Any], refused: NotGiven | None
) -> None:
    found = sort(claim, **NORMAL, **row)
    assert found.allowed == sort(**row).allowed
    assert found.refused == (() if refused is None else ((claim, refused),))


@pytest.mark.parametrize("policy", [{}, NORMAL])
def test_the_administrators_word_is_as_good_as_a_row(policy: dict[str, Any]) -> None:
    assert sort(by_hand=OTHER, **ATTACHED, **policy).allowed == (Station(MAC), Station(OTHER))


def test_a_refusal_says_what_to_do() -> None:
    assert NotGiven.MAC.advice == (
        "mac-not-given: if it is the guest's, add it to external_ids:vhost-user-addresses"
    )
