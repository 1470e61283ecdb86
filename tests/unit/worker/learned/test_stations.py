# SPDX-License-Identifier: Apache-2.0
"""Tables of several queue pairs as one."""

from ipaddress import IPv4Address, IPv6Address
from typing import Any

from ovs_vhost_plugin.jit.layout import ADDRESSES, STATIONS
from ovs_vhost_plugin.jit.net.learn import AGE
from ovs_vhost_plugin.net.station import Station
from ovs_vhost_plugin.worker.learned.stations import LearnedStation, expiry, merge

FOUR, SIX = IPv4Address("10.0.0.2"), IPv6Address("fe80::1")


def station(mac: int, *rest: Any) -> LearnedStation:
    return LearnedStation(mac.to_bytes(6, "big"), *rest)


def test_pairs_that_saw_the_same_station_agree_on_the_latest() -> None:
    one = station(1, 0, 100, False, {FOUR: 90})
    other = station(1, 0, 200, True, {FOUR: 80, SIX: 200})
    apart = station(1, 7, 50)
    assert merge([[one], [other, apart]]) == [
        station(1, 0, 200, True, {FOUR: 90, SIX: 200}),
        station(1, 7, 50),
    ]


def test_the_order_is_stable() -> None:
    stations = [station(mac, vlan, 100 - mac) for mac in (3, 1, 2) for vlan in (9, 0)]
    order = [
        (int.from_bytes(one.mac, "big"), one.vlan) for one in merge([stations[:4], stations[4:]])
    ]
    assert order == [(1, 0), (1, 9), (2, 0), (2, 9), (3, 0), (3, 9)]


def test_an_address_belongs_to_who_used_it_last_in_each_vlan() -> None:
    stations = [
        station(1, 0, 300, False, {FOUR: 100}),
        station(2, 0, 200, False, {FOUR: 200}),
        station(3, 5, 50, False, {FOUR: 50}),
    ]
    assert [list(one.addresses) for one in merge([stations])] == [[], [FOUR], [FOUR]]


def test_many_pairs_make_no_larger_table() -> None:
    tables = [
        [
            station(mac, 0, 1000 + pair, False, {FOUR + 100 * mac + pair: 1 + pair})
            for mac in range(STATIONS)
        ]
        for pair in range(ADDRESSES + 3)
    ]
    tables.append([station(1000 + mac, 0, 5000) for mac in range(3)])
    merged = merge(tables)
    assert len(merged) == STATIONS
    assert {1000, 1001, 1002} <= {int.from_bytes(one.mac, "big") for one in merged}
    assert max(len(one.addresses) for one in merged) == ADDRESSES


def test_the_first_to_age_is_known() -> None:
    assert expiry([]) is None
    stations = [station(1, 0, 500, False, {FOUR: 400, SIX: 450}), station(2, 0, 450)]
    assert expiry(stations) == 400 + AGE + 1


def test_what_the_daemon_is_told_has_no_times() -> None:
    found = {IPv4Address("10.0.0.10"): 1, IPv4Address("10.0.0.9"): 2, SIX: 3}
    assert station(0x525400000001, 7, 5, True, found).told() == Station(
        bytes.fromhex("525400000001"),
        7,
        (bytes([10, 0, 0, 9]), bytes([10, 0, 0, 10])),
        (SIX.packed,),
        router=True,
    )
