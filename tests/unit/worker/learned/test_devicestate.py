# SPDX-License-Identifier: Apache-2.0
"""What travels, and what becomes of it: two ports' states and the pipe between them."""

import os
import selectors
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from support.worker.fake_outbox import FakeOutbox

from ovs_vhost_plugin.ipc.reports import GuestStations
from ovs_vhost_plugin.jit.net.learn import AGE
from ovs_vhost_plugin.vhost.errors import PeerError
from ovs_vhost_plugin.worker.learned.addresses import Addresses
from ovs_vhost_plugin.worker.learned.devicestate import DeviceState
from ovs_vhost_plugin.worker.learned.movedon import Watch
from ovs_vhost_plugin.worker.learned.stations import LearnedStation

NIC = bytes.fromhex("525400000001")
MAC = 0x525400000002
SECONDS = AGE / 1000


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Pair:
    def __init__(self) -> None:
        self.known: list[LearnedStation] = []

    def stations(self, now: int) -> list[LearnedStation]:
        return [one for one in self.known if now - one.seen <= AGE]

    def tell_of_claims(self, tell: bool) -> None:
        pass


class Port:
    """One host's end; its clock has its own beginning."""

    def __init__(self, now: float, stack: ExitStack) -> None:
        self.now = now
        self.pair = Pair()
        self.learned_fd = os.eventfd(0)
        stack.callback(os.close, self.learned_fd)
        pairs: Any = [self.pair]
        self.outbox = FakeOutbox()
        outbox: Any = self.outbox
        self.addresses = Addresses(pairs, self.learned_fd, Watch(), outbox)
        selector = stack.enter_context(selectors.DefaultSelector())
        self.state = DeviceState(self.addresses, selector, lambda: self.now)
        stack.callback(self.state.forget)

    def learn(self, mac: int, ip: str, age: float = 0.0) -> None:
        at = int(1000 * (self.now - age))
        station = LearnedStation(mac.to_bytes(6, "big"), 10, at, addresses={ip_address(ip): at})
        self.pair.known.append(station)

    def shown(self) -> list[str]:
        """The stations that the daemon is told of."""
        return [
            " ".join([one.mac.hex(":"), str(one.vlan), *map(str, map(IPv4Address, one.ipv4))])
            for one in self.addresses.current
        ]

    def save(self) -> bytes:
        reading, writing = os.pipe()
        self.state.save(writing)
        with open(reading, "rb") as pipe:  # noqa: PTH123
            data = pipe.read()
        self.state.check()
        return data

    def load(self, data: bytes) -> None:
        reading, writing = os.pipe()
        self.state.load(reading)
        os.write(writing, data)
        os.close(writing)
        self.state.check()


@pytest.fixture
def hosts() -> Iterator[list[Port]]:
    with ExitStack() as stack:
        yield [Port(1000.0, stack), Port(77.0, stack), Port(5e5, stack)]


NESTED = "52:54:00:00:00:02 10 192.0.2.1"
NIC_SHOWN = "52:54:00:00:00:01 0"


def test_what_was_learned_and_send_rarps_mac_arrive_and_are_told_of_at_once(
    hosts: list[Port],
) -> None:
    a, b, _ = hosts
    a.learn(MAC, "192.0.2.1")
    a.state.rarp(NIC)
    b.load(a.save())
    assert b.shown() == [NIC_SHOWN, NESTED]
    assert b.outbox.states == {GuestStations: GuestStations(b.addresses.current)}
    assert not a.outbox.states
    assert [a.state.take_arrival(), b.state.take_arrival(), b.state.take_arrival()] == [
        False,
        True,
        False,
    ]


def test_a_guest_that_moves_on_in_silence_takes_all_of_it_along(hosts: list[Port]) -> None:
    a, b, c = hosts
    a.learn(MAC, "192.0.2.1")
    a.state.rarp(NIC)
    b.load(a.save())
    c.load(b.save())
    assert c.shown() == [NIC_SHOWN, NESTED]


def test_what_came_ages_as_if_it_had_been_seen_here_and_the_nic_stays(hosts: list[Port]) -> None:
    a, b, c = hosts
    a.learn(MAC, "192.0.2.1", age=SECONDS - 10)
    a.state.rarp(NIC)
    b.load(a.save())
    assert b.addresses.get_timer() == pytest.approx(b.now + 10, abs=0.1)
    b.now += 10.1
    b.addresses.handle_timer(b.now)
    assert b.shown() == [NIC_SHOWN]
    c.load(b.save())
    assert c.shown() == [NIC_SHOWN]


def test_what_is_seen_here_is_merged_with_what_came(hosts: list[Port]) -> None:
    a, b, _ = hosts
    a.learn(MAC, "192.0.2.1")
    b.load(a.save())
    b.learn(MAC, "192.0.2.2")
    os.eventfd_write(b.learned_fd, 1)
    b.addresses.woken(b.now)
    b.addresses.handle_timer(b.now)
    assert b.shown() == ["52:54:00:00:00:02 10 192.0.2.1 192.0.2.2"]


def test_the_next_front_ends_guest_has_none_of_it(hosts: list[Port]) -> None:
    a, b, c = hosts
    a.learn(MAC, "192.0.2.1")
    a.state.rarp(NIC)
    b.load(a.save())
    b.state.rarp(NIC)
    b.state.forget()
    assert not b.state.take_arrival()
    b.addresses.handle_timer(b.now)
    assert b.shown() == []
    c.load(b.save())
    assert c.shown() == []


def test_a_state_that_cannot_be_read_changes_nothing(hosts: list[Port]) -> None:
    a, b, _ = hosts
    a.learn(MAC, "192.0.2.1")
    data = a.save()
    b.load(data)
    with pytest.raises(PeerError, match="device-state-truncated"):
        b.load(data[:-1])
    assert b.shown() == [NESTED]


def test_a_check_of_nothing_and_a_second_check_are_named(hosts: list[Port]) -> None:
    a = hosts[0]
    with pytest.raises(PeerError, match="device-state-none"):
        a.state.check()
    a.save()
    with pytest.raises(PeerError, match="device-state-none"):
        a.state.check()


def test_transfers_again_and_again_leave_nothing_open(hosts: list[Port]) -> None:
    a = hosts[0]
    ends = [os.pipe() for _ in range(20)]
    before = open_fds()
    for reading, _ in ends:
        a.state.load(reading)
    a.state.forget()
    assert open_fds() == before - len(ends)
    for _, writing in ends:
        os.close(writing)
