# SPDX-License-Identifier: Apache-2.0
"""What others have now, and what the guest has again. Times in ms."""

from ipaddress import IPv4Address

from ovs_vhost_plugin.jit.layout import ADDRESSES, STATIONS
from ovs_vhost_plugin.net.station import StationKey
from ovs_vhost_plugin.worker.learned.movedon import MovedOn, Watch
from ovs_vhost_plugin.worker.learned.stations import Ip, LearnedStation

FIRST, SECOND = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")


def key(mac: int, vlan: int = 0) -> StationKey:
    return StationKey(mac.to_bytes(6, "big"), vlan)


def station(seen: int, claims: dict[Ip, int], mac: int = 1, vlan: int = 0) -> LearnedStation:
    """Seen, with all its addresses, at `seen`; it claimed them when `claims` says."""
    return LearnedStation(*key(mac, vlan), seen, False, dict.fromkeys(claims, seen), claims)


def ips(stations: list[LearnedStation]) -> dict[StationKey, set[Ip]]:
    return {one.key: set(one.addresses) for one in stations}


def test_an_address_is_whose_who_claimed_it_last() -> None:
    moved = MovedOn()
    moved.claimed({(key(1), FIRST): 200})
    used = station(300, {FIRST: 100, SECOND: 100})
    assert ips(moved.without([used])) == {key(1): {SECOND}}, "it sends from it, and no more"
    assert moved.addresses
    again = station(300, {FIRST: 201, SECOND: 100})
    assert ips(moved.without([again])) == {key(1): {FIRST, SECOND}}
    assert not moved.addresses


def test_another_station_or_vlan_is_not_meant() -> None:
    moved = MovedOn()
    moved.claimed({(key(1), FIRST): 200})
    others = [station(100, {FIRST: 100}, mac=2), station(100, {FIRST: 100}, vlan=7)]
    assert moved.without(others) == others


def test_a_mac_is_the_guests_again_once_it_sends_from_it() -> None:
    moved = MovedOn()
    moved.elsewhere([key(1, 7)], 200)
    assert moved.without([station(150, {FIRST: 150}, vlan=7), station(150, {})]) == [
        station(150, {})
    ]
    assert moved.without([station(200, {}, vlan=7)]) == []
    back = station(201, {}, vlan=7)
    assert moved.without([back]) == [back]
    assert moved.without([station(150, {}, vlan=7)]) != [], "that was long ago"


def test_what_is_no_longer_known_needs_no_remembering() -> None:
    moved = MovedOn()
    moved.claimed({(key(mac), FIRST): 200 for mac in range(1000)})
    moved.elsewhere([key(mac) for mac in range(1000)], 200)
    moved.without([])
    assert not moved.addresses
    assert moved.without([station(100, {FIRST: 100})]) != []


def test_a_place_of_the_watch_is_one_address_and_believes_no_older_claim() -> None:
    watch = Watch()
    rows, count = watch.tables
    watch.follow([station(1, {FIRST: 1})], 100)
    assert (int(count[0]), watch.claims()) == (1, {})
    rows[0]["claimed"] = 150
    assert watch.claims() == {(key(1), FIRST): 150}
    watch.follow([station(1, {SECOND: 1})], 200)
    assert watch.claims() == {}
    rows[0]["claimed"] = 190  # by a loop that had read it before
    assert watch.claims() == {}
    rows[0]["claimed"] = 201
    assert watch.claims() == {(key(1), SECOND): 201}
    watch.follow([], 300)
    assert (int(count[0]), watch.claims(), rows.view("u1").any()) == (0, {}, False)


def test_there_is_a_place_for_all_that_a_port_can_have() -> None:
    watch = Watch()
    own: dict[Ip, int] = {FIRST + place: 1 for place in range(ADDRESSES)}
    full = [station(1, own, mac=1 + mac) for mac in range(STATIONS)]
    for _ in range(2):
        watch.follow(full, 100)
        watch.tables[0]["claimed"] = 200
        assert len(watch.claims()) == STATIONS * ADDRESSES
        watch.follow([], 300)
