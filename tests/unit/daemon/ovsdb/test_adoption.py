# SPDX-License-Identifier: Apache-2.0
"""Which rows of OVS-DPDK are taken over, and which types the database is told."""

import pytest
from support.daemon.rows import interface, parse

from ovs_vhost_plugin.daemon.ovsdb import adoption
from ovs_vhost_plugin.daemon.ovsdb import interface_rows as rows
from ovs_vhost_plugin.daemon.ovsdb.adoption import BURST, RATE, Telling

NOW = 10.0
OWN = {"system", "internal"}
OURS = {"dpdkvhostuser", "dpdkvhostuserclient"}
WITH_DPDK = {*OWN, *OURS, "dpdk"}


@pytest.mark.parametrize(
    ("type_", "types", "adoptable"),
    [
        ("dpdkvhostuserclient", OWN, True),
        ("dpdkvhostuser", OWN, True),
        ("dpdkvhostuser", {*OWN, *OURS}, True),  # told by us
        ("dpdkvhostuser", WITH_DPDK, False),
        ("dpdkvhostuser", set(), False),  # ovs-vswitchd has not said yet
        ("dpdkvhostuser", OURS, False),
        ("dpdk", OWN, False),
        ("", OWN, False),
    ],
)
def test_which_rows_of_ovs_dpdk_may_be_taken_over(type_: str, types: set, adoptable: bool) -> None:
    assert adoption.is_adoptable(interface(type=type_), types) is adoptable


def test_a_row_taken_over_is_ours_and_means_the_same() -> None:
    for type_, options, mode in (
        ("dpdkvhostuserclient", {"vhost-server-path": "/run/vm.sock"}, "client"),
        ("dpdkvhostuser", {}, "server"),
    ):
        before = interface(type=type_, options=options)
        keys = adoption.keys(before)
        after = interface(options=options, external_ids=keys)
        assert keys["vhost-user-dpdk-type"] == type_
        assert rows.is_ours(after) and parse(after).mode == mode


def test_a_row_that_automation_sets_again_keeps_its_mode_unless_the_type_is_another() -> None:
    keys = {"vhost-user-dpdk-type": "dpdkvhostuserclient", "vhost-user-mode": "client"}
    for type_, mode in (("dpdkvhostuserclient", "client"), ("dpdkvhostuser", "server")):
        again = adoption.keys(interface(type=type_, external_ids=keys))
        assert again == {"vhost-user-dpdk-type": type_, "vhost-user-mode": mode}


ALL, NONE = dict.fromkeys(OURS, True), dict.fromkeys(OURS, False)


@pytest.mark.parametrize(
    ("types", "with_option", "without"),
    [
        (OWN, ALL, {}),
        ({*OWN, "dpdkvhostuser"}, {"dpdkvhostuserclient": True}, {"dpdkvhostuser": False}),
        ({*OWN, *OURS}, {}, NONE),
        (WITH_DPDK, {}, {}),  # the switch's own, with the option or without it
        (set(), {}, {}),  # the switch has not said yet
        (OURS, {}, {}),
    ],
)
def test_the_types_are_told_with_the_option_and_taken_back_without_it(
    types: set, with_option: dict, without: dict
) -> None:
    assert adoption.told(types, wanted=True) == with_option
    assert adoption.told(types, wanted=False) == without


@pytest.mark.parametrize(
    ("external_ids", "tells"),
    [
        ({}, True),
        ({"vhost-user-iface-types": "false"}, False),
        ({"ovn-remote": "tcp:192.0.2.1:6642"}, False),
        ({"ovn-remote-compute1": "tcp:192.0.2.1:6642"}, False),
        ({"ovn-remote": "tcp:192.0.2.1:6642", "vhost-user-iface-types": "true"}, True),
    ],
)
def test_on_a_host_of_ovn_the_types_are_told_only_on_request(
    external_ids: dict, tells: bool
) -> None:
    assert adoption.tells(external_ids) is tells


def test_each_write_of_the_switch_is_followed_by_one_of_ours_within_bounds() -> None:
    telling = Telling()
    for _ in range(BURST):
        assert telling.step(OWN, True, NOW) == ALL
    assert telling.step({*OWN, *OURS}, True, NOW) == {}
    assert telling.step(OWN, True, NOW) == NOW + 1 / RATE
    assert telling.step(OWN, True, NOW + 2 / RATE) == ALL
    assert telling.step({*OWN, *OURS}, False, NOW + 4 / RATE) == NONE
