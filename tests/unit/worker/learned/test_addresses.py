# SPDX-License-Identifier: Apache-2.0
"""When the worker looks at what the guest uses, and how often at most."""

import os
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest
from support.worker.fake_outbox import FakeOutbox

from ovs_vhost_plugin.ipc.reports import GuestStations
from ovs_vhost_plugin.jit.net.learn import AGE
from ovs_vhost_plugin.net.station import StationKey
from ovs_vhost_plugin.worker.learned.addresses import Addresses
from ovs_vhost_plugin.worker.learned.movedon import Watch
from ovs_vhost_plugin.worker.learned.savedstate import Saved
from ovs_vhost_plugin.worker.learned.stations import LearnedStation

NOW = 1000.0


def mac(number: int) -> bytes:
    return number.to_bytes(6, "big")


class FakePair:
    """Has what it is given, aged; counts the looks."""

    def __init__(self) -> None:
        self.known: list[LearnedStation] = []
        self.looks = 0
        self.told_of_claims = False

    def tell_of_claims(self, tell: bool) -> None:
        self.told_of_claims = tell

    def stations(self, now: int) -> list[LearnedStation]:
        self.looks += 1
        return [one for one in self.known if now - one.seen <= AGE]


class Rig:
    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.pair = FakePair()
        self.watch = Watch()
        outbox: Any = FakeOutbox()
        self.addresses = Addresses([self.pair], self.fd, self.watch, outbox)  # type: ignore[list-item]
        self.outbox = outbox

    def news(self, now: float) -> None:
        os.eventfd_write(self.fd, 1)
        self.addresses.woken(now)
        self.addresses.handle_timer(now)

    def macs(self) -> list[Any]:
        """Of the stations that the daemon is told of."""
        told = self.outbox.states.get(GuestStations, GuestStations(()))
        assert told.stations == self.addresses.current
        return [station.mac.hex(":") for station in told.stations]


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    os.close(rig.fd)


def test_without_news_nothing_is_looked_at(rig: Rig) -> None:
    rig.addresses.handle_timer(NOW)
    assert (rig.pair.looks, rig.addresses.get_timer()) == (0, None)


def test_news_is_seen_at_once_and_the_eventfd_is_quiet(rig: Rig) -> None:
    rig.pair.known = [LearnedStation(mac(1), 0, int(1000 * NOW))]
    rig.news(NOW)
    assert rig.macs() == ["00:00:00:00:00:01"]
    with pytest.raises(BlockingIOError):
        os.eventfd_read(rig.fd)


def test_a_guest_that_makes_up_addresses_is_looked_at_so_often_and_its_last_word_counts(
    rig: Rig,
) -> None:
    for tick in range(10_000):  # ten seconds
        now = NOW + tick / 1000
        rig.pair.known = [LearnedStation(mac(1 + tick), 0, int(1000 * now))]
        rig.news(now)
    assert rig.pair.looks <= 5 + 10
    due = rig.addresses.get_timer()
    assert due is not None and 0 < due - now <= 1
    rig.addresses.handle_timer(due + 0.001)
    assert rig.macs() == ["00:00:00:00:27:10"]  # 10,000


def test_what_another_claims_is_told_of_and_what_the_guest_claims_again_too(rig: Rig) -> None:
    ip = IPv4Address("10.0.0.1")
    at = int(1000 * NOW)
    rig.pair.known = [LearnedStation(mac(1), 0, at, False, {ip: at}, {ip: at})]
    rig.news(NOW)
    assert rig.addresses.current[0].ipv4 == (bytes([10, 0, 0, 1]),)
    rig.watch.tables[0]["claimed"] = at + 10
    rig.news(NOW + 0.02)
    assert (rig.addresses.current[0].ipv4, rig.pair.told_of_claims) == ((), True)
    assert rig.addresses.known(NOW + 0.02)[0].addresses == {}, "nor does it move with the guest"
    rig.pair.known = [LearnedStation(mac(1), 0, at + 30, False, {ip: at + 30}, {ip: at + 30})]
    rig.news(NOW + 0.03)
    assert rig.addresses.current[0].ipv4 == (bytes([10, 0, 0, 1]),)
    assert not rig.pair.told_of_claims


def test_an_address_that_came_with_the_guest_is_listened_for_as_well(rig: Rig) -> None:
    ip = IPv4Address("10.0.0.1")
    at = int(1000 * NOW)
    rig.addresses.inherit(
        Saved(None, [LearnedStation(mac(1), 0, at - 50, False, {ip: at - 50})]), NOW
    )
    assert rig.addresses.current[0].ipv4 == (bytes([10, 0, 0, 1]),)
    rig.watch.tables[0]["claimed"] = at + 10
    rig.news(NOW + 0.02)
    assert rig.addresses.current[0].ipv4 == ()


def test_what_came_with_a_guest_goes_with_it(rig: Rig) -> None:
    rig.addresses.inherit(Saved(mac(3), [LearnedStation(mac(1), 0, int(1000 * NOW))]), NOW)
    assert len(rig.macs()) == 2
    rig.addresses.disinherit()
    rig.addresses.handle_timer(NOW + 1)
    assert rig.macs() == [] and rig.addresses.known(NOW + 1) == []
    assert rig.addresses.nic is None


def test_what_the_bridge_has_elsewhere_is_told_of_no_more(rig: Rig) -> None:
    at = int(1000 * NOW)
    rig.pair.known = [LearnedStation(mac(1), 0, at), LearnedStation(mac(2), 0, at)]
    rig.addresses.inherit(Saved(mac(3), []), NOW)
    assert len(rig.macs()) == 3
    rig.addresses.elsewhere([StationKey(mac(n), 0) for n in (1, 3)], NOW + 1)
    assert rig.macs() == ["00:00:00:00:00:02"]
    rig.pair.known[0].seen = at + 1001
    rig.news(NOW + 2)
    assert len(rig.macs()) == 2


def test_what_ages_is_dropped_and_then_nothing_wakes_the_worker(rig: Rig) -> None:
    rig.pair.known = [
        LearnedStation(mac(1), 0, int(1000 * NOW)),
        LearnedStation(mac(2), 0, int(1000 * NOW) + 7000),
    ]
    rig.news(NOW + 7)
    assert len(rig.macs()) == 2
    now, wakeups = NOW + 7, 0
    while (due := rig.addresses.get_timer()) is not None:
        assert due > now, "it would not sleep"
        now = due
        rig.addresses.handle_timer(now)
        wakeups += 1
    assert rig.macs() == []
    assert NOW + 7 + AGE / 1000 < now < NOW + 8 + AGE / 1000
    assert wakeups == 2


def test_what_is_used_on_is_looked_at_once_an_age(rig: Rig) -> None:
    now, wakeups = NOW, 0
    rig.pair.known = [LearnedStation(mac(1), 0, int(1000 * now))]
    rig.news(now)
    while now < NOW + 10 * AGE / 1000:
        due = rig.addresses.get_timer()
        assert due is not None
        now = due
        rig.pair.known = [LearnedStation(mac(1), 0, int(1000 * now))]
        rig.addresses.handle_timer(now)
        wakeups += 1
    assert wakeups <= 11
    assert rig.macs() == ["00:00:00:00:00:01"]
