# SPDX-License-Identifier: Apache-2.0
"""What the guest uses is learned from its frames: tables beside a plain reference."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.jit.learn_reference import (
    AGE_MS,
    IPS_EACH,
    PLACES,
    Ip,
    Reference,
    arp,
    discovery,
    ethernet,
    ipv4,
    ipv6,
    mac,
)
from support.jit.packets import Packet, header
from support.jit.pair_rig import EMPTY, Rig, await_that

from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.kernel import JIT
from ovs_vhost_plugin.jit.net.learn import learn, look_again
from ovs_vhost_plugin.worker.learned.stations import read

NOW = 1_000_000
FOUR, SIX = IPv4Address("10.0.0.2"), IPv6Address("fe80::5054:ff:fe00:1")
Visible = dict[tuple[bytes, int], tuple[int, bool, dict[Ip, int]]]


@pytest.fixture
def learned() -> Iterator[layout.Learned]:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    yield fresh.new_learned(fd)
    os.close(fd)


def feed(learned: layout.Learned, frame: bytes, now: int = NOW) -> None:
    head = np.zeros(layout.HEAD, np.uint8)
    part = frame[: layout.HEAD]
    head[: len(part)] = np.frombuffer(part, np.uint8)
    head[len(part) :] = 0xA5  # what an earlier frame left there
    learn(learned, head, len(part), now)


def visible(learned: layout.Learned, now: int = NOW) -> Visible:
    return {
        (one.mac, one.vlan): (one.seen, one.router, one.addresses) for one in read(learned, now)
    }


def ips(learned: layout.Learned, now: int = NOW) -> dict[tuple[bytes, int], set[Ip]]:
    return {key: set(found) for key, (_, _, found) in visible(learned, now).items()}


# -- what is learned ------------------------------------------------------------------------------


@pytest.mark.parametrize("tags", [(), (7,), (0xE007,)])
def test_a_claim_is_learned_in_its_vlan(learned: layout.Learned, tags: tuple[int, ...]) -> None:
    for payload, kind in (
        (arp(mac(1), FOUR), 0x806),
        (arp(mac(1), IPv4Address("10.0.0.3"), 2), 0x806),
        (discovery(SIX), 0x86DD),
    ):
        feed(learned, ethernet(mac(1), kind, payload, *tags))
    vlan = 7 if tags else 0
    assert ips(learned) == {(mac(1), vlan): {FOUR, IPv4Address("10.0.0.3"), SIX}}


def test_of_two_tags_the_outer_one_counts_and_no_address(learned: layout.Learned) -> None:
    feed(learned, ethernet(mac(1), 0x806, arp(mac(1), FOUR), 9, 7))
    assert ips(learned) == {(mac(1), 9): set()}


@pytest.mark.parametrize(
    "payload",
    [
        (0x800, ipv4(FOUR)),
        (0x86DD, ipv6(SIX)),
        (0x86DD, discovery(SIX, hops=254)),  # may have been routed
        (0x86DD, discovery(SIX, kind=128)),
        (0x806, arp(mac(2), FOUR)),  # for another MAC
        (0x806, arp(mac(1), FOUR, start="000608000604")),
        (0x806, arp(mac(1), FOUR)[:27]),
        (0x86DD, discovery(SIX)[:44]),
        (0x88B5, bytes(50)),
        (0x800, b""),
    ],
)
def test_what_claims_nothing_shows_only_the_mac(
    learned: layout.Learned, payload: tuple[int, bytes]
) -> None:
    feed(learned, ethernet(mac(1), *payload))
    assert ips(learned) == {(mac(1), 0): set()}


@pytest.mark.parametrize(
    "ip", ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "239.1.1.1", "255.255.255.255"]
)
def test_no_hosts_ipv4_address_is_learned(learned: layout.Learned, ip: str) -> None:
    feed(learned, ethernet(mac(1), 0x806, arp(mac(1), IPv4Address(ip))))
    assert ips(learned) == {(mac(1), 0): set()}


@pytest.mark.parametrize("ip", ["::", "::1", "::ffff:10.0.0.2", "ff02::1", "ff00::"])
def test_no_hosts_ipv6_address_is_learned(learned: layout.Learned, ip: str) -> None:
    feed(learned, ethernet(mac(1), 0x86DD, discovery(IPv6Address(ip), kind=135)))
    assert ips(learned) == {(mac(1), 0): set()}


@pytest.mark.parametrize("source", ["000000000000", "ffffffffffff", "010000000001"])
def test_no_stations_mac_is_learned(learned: layout.Learned, source: str) -> None:
    feed(learned, ethernet(bytes.fromhex(source), 0x806, arp(bytes.fromhex(source), FOUR)))
    assert visible(learned) == {}


def test_a_reserved_vlan_is_not_learned(learned: layout.Learned) -> None:
    feed(learned, ethernet(mac(1), 0x806, arp(mac(1), FOUR), 4095))
    assert visible(learned) == {}


def test_a_router_says_so_and_may_take_it_back(learned: layout.Learned) -> None:
    for flags, kind, router in ((0x20, 136, False), (0, 134, True), (0x20, 136, False)):
        feed(learned, ethernet(mac(1), 0x86DD, discovery(SIX, kind, flags=flags)))
        assert visible(learned)[mac(1), 0][1] is router
    feed(learned, ethernet(mac(1), 0x86DD, discovery(SIX, flags=0xA0)))
    feed(learned, ethernet(mac(1), 0x86DD, discovery(SIX, kind=135, flags=0)))
    assert visible(learned)[mac(1), 0][1] is True


# -- ageing and replacement -----------------------------------------------------------------------


def test_traffic_keeps_alive_what_was_claimed(learned: layout.Learned) -> None:
    feed(learned, ethernet(mac(1), 0x806, arp(mac(1), FOUR)))
    feed(learned, ethernet(mac(1), 0x86DD, discovery(SIX)))
    later = NOW + AGE_MS - 1
    feed(learned, ethernet(mac(1), 0x800, ipv4(FOUR)), later)
    assert ips(learned, NOW + AGE_MS) == {(mac(1), 0): {FOUR, SIX}}
    assert ips(learned, NOW + AGE_MS + 1) == {(mac(1), 0): {FOUR}}
    assert ips(learned, later + AGE_MS + 1) == {}


def test_what_has_aged_must_be_claimed_again(learned: layout.Learned) -> None:
    feed(learned, ethernet(mac(1), 0x806, arp(mac(1), FOUR)))
    later = NOW + AGE_MS + 1
    feed(learned, ethernet(mac(1), 0x800, ipv4(FOUR)), later)
    assert ips(learned, later) == {(mac(1), 0): set()}
    feed(learned, ethernet(mac(1), 0x806, arp(mac(1), FOUR)), later)
    assert ips(learned, later) == {(mac(1), 0): {FOUR}}
    assert learned.state["replaced"] == 0


def test_a_guest_with_random_macs_replaces_the_oldest_and_is_counted(
    learned: layout.Learned,
) -> None:
    for number in range(1000):
        feed(learned, ethernet(mac(number), 0x806, arp(mac(number), FOUR)), NOW + number)
    assert set(visible(learned, NOW + 1000)) == {(mac(n), 0) for n in range(1000 - PLACES, 1000)}
    assert learned.state["replaced"] == 1000 - PLACES


def test_what_is_used_stays_while_others_come(learned: layout.Learned) -> None:
    for number in range(1, 1000):
        feed(learned, ethernet(mac(0), 0x806, arp(mac(0), FOUR)), NOW + number)
        feed(learned, ethernet(mac(number), 0x88B5, bytes(46)), NOW + number)
    assert ips(learned, NOW + 1000)[mac(0), 0] == {FOUR}


def test_a_station_has_a_few_addresses_the_latest(learned: layout.Learned) -> None:
    for number in range(100):
        feed(learned, ethernet(mac(1), 0x806, arp(mac(1), FOUR + number)), NOW + number)
    assert ips(learned, NOW + 100) == {
        (mac(1), 0): {FOUR + n for n in range(100 - IPS_EACH, 100)},
    }
    assert learned.state["replaced"] == 100 - IPS_EACH


def test_what_has_aged_makes_room_uncounted(learned: layout.Learned) -> None:
    for number in range(PLACES):
        feed(learned, ethernet(mac(number), 0x88B5, bytes(46)))
    feed(learned, ethernet(mac(PLACES), 0x88B5, bytes(46)), NOW + AGE_MS + 1)
    assert learned.state["replaced"] == 0
    assert set(visible(learned, NOW + AGE_MS + 1)) == {(mac(PLACES), 0)}


def test_of_frames_that_all_differ_a_sample_is_looked_at_and_every_claim(
    learned: layout.Learned,
) -> None:
    """A guest that routes or bridges sends such frames; the clock ticks every few milliseconds."""
    for number in range(1000):
        feed(learned, ethernet(mac(number), 0x800, ipv4(FOUR)))
    assert len(visible(learned)) == PLACES
    assert learned.state["replaced"] == 0
    feed(learned, ethernet(mac(2000), 0x800, ipv4(FOUR)), NOW + 4)
    feed(learned, ethernet(mac(2001), 0x806, arp(mac(2001), FOUR)), NOW + 4)
    assert {(mac(2000), 0), (mac(2001), 0)} <= set(visible(learned, NOW + 4))


# -- beside the reference -------------------------------------------------------------------------

MACS = st.sampled_from([mac(1), mac(2), mac(3), bytes(6), b"\x01" + bytes(5)])
FOURS = st.sampled_from([FOUR + n for n in range(11)] + [IPv4Address(n << 24) for n in (0, 127)])
SIXES = st.sampled_from(
    [SIX + n for n in range(11)] + [IPv6Address("::"), IPv6Address("ff02::1"), IPv6Address(2**127)]
)


@st.composite
def packets(draw: st.DrawFn, source: bytes) -> tuple[int, bytes]:
    match draw(st.integers(0, 4)):
        case 0:
            return 0x806, arp(draw(st.just(source) | MACS), draw(FOURS), draw(st.integers(1, 4)))
        case 1:
            return 0x800, ipv4(draw(FOURS))
        case 2:
            return 0x86DD, ipv6(draw(SIXES), draw(st.sampled_from([0, 6, 58])))
        case 3:
            kind, hops = draw(st.integers(133, 137)), draw(st.sampled_from([255, 255, 64]))
            return 0x86DD, discovery(draw(SIXES), kind, hops, draw(st.sampled_from([0, 0xA0])))
    kinds = st.sampled_from([0x800, 0x806, 0x86DD, 0x8100, 0x88A8]) | st.integers(0, 65535)
    return draw(kinds), draw(st.binary(max_size=70))


@st.composite
def sent(draw: st.DrawFn) -> bytes:
    source = draw(MACS)
    tags = draw(st.lists(st.sampled_from([0, 1, 7, 0x6001, 4095]), max_size=2))
    frame = ethernet(source, *draw(packets(source)), *tags)
    return frame[: max(14, len(frame) - draw(st.sampled_from([0, 0, 0, 1, 9, 30])))]


# Longer than a frame like the one before is passed over, or not at all.
STEPS = st.sampled_from([0, 0, 0, 1001, 5000, 150_000, AGE_MS - 1, AGE_MS, AGE_MS + 1])


@given(st.lists(st.tuples(sent(), STEPS), max_size=60))
def test_the_tables_are_the_references(frames: list[tuple[bytes, int]]) -> None:
    learned, reference, now = fresh.new_learned(-1), Reference(), NOW
    for frame, step in frames:
        now += step
        look_again(learned)
        before = visible(learned, now)
        feed(learned, frame, now)
        reference.learn(frame, now)
        assert visible(learned, now) == reference.visible(now)
        if without_times(before) != without_times(visible(learned, now)):
            assert learned.told[0] == 1
    assert learned.state["replaced"] == reference.replaced


@given(st.lists(st.binary(min_size=14, max_size=64), max_size=90))
def test_noise_is_the_references_too(frames: list[bytes]) -> None:
    learned, reference = fresh.new_learned(-1), Reference()
    for number, frame in enumerate(frames):
        feed(learned, frame, NOW + 2000 * number)
        reference.learn(frame, NOW + 2000 * number)
    end = NOW + 2000 * len(frames)
    assert visible(learned, end) == reference.visible(end)


def without_times(seen: Visible) -> object:
    return {key: (router, set(found)) for key, (_, router, found) in seen.items()}


# -- who is told ----------------------------------------------------------------------------------


def told(learned: layout.Learned) -> int:
    """How often since the last time."""
    try:
        return os.eventfd_read(int(learned.state["cfg_fd"][0]))
    except BlockingIOError:
        return 0


def test_news_is_told_once_until_somebody_looks(learned: layout.Learned) -> None:
    for number in range(100):
        feed(learned, ethernet(mac(number), 0x88B5, bytes(46)), NOW + number)
    assert told(learned) == 1
    feed(learned, ethernet(mac(1000), 0x88B5, bytes(46)), NOW + 100)
    assert told(learned) == 0
    look_again(learned)
    feed(learned, ethernet(mac(1001), 0x88B5, bytes(46)), NOW + 101)
    assert told(learned) == 1


def test_what_is_known_is_no_news(learned: layout.Learned) -> None:
    for round_ in range(100):
        for number in range(3):
            now = NOW + 500 * round_
            feed(learned, ethernet(mac(number), 0x806, arp(mac(number), FOUR)), now)
            feed(learned, ethernet(mac(number), 0x86DD, discovery(SIX)), now)
            feed(learned, ethernet(mac(number), 0x800, ipv4(FOUR)), now)
        if round_ == 0:
            assert told(learned) == 1
            look_again(learned)
    assert told(learned) == 0


def test_what_was_about_to_age_is_news(learned: layout.Learned) -> None:
    """Who looked with a clock ahead of the loop's may have dropped it already."""
    feed(learned, ethernet(mac(1), 0x806, arp(mac(1), FOUR)))
    assert told(learned) == 1
    look_again(learned)
    feed(learned, ethernet(mac(1), 0x806, arp(mac(1), FOUR)), NOW + AGE_MS)
    assert told(learned) == 1


@pytest.mark.skipif(not JIT, reason="as plain Python this would be a loop of minutes")
def test_a_table_that_changes_while_it_is_read_is_never_read_wrong() -> None:
    """Each MAC claims the one address that is made of it; no reader sees it with another's."""
    learned = fresh.new_learned(-1)
    stop = np.zeros(1, np.int64)
    frame = np.frombuffer(ethernet(mac(0), 0x806, arp(mac(0), FOUR)), np.uint8).copy()

    @numba.njit(nogil=True)  # type: ignore[misc]
    def flood(learned: layout.Learned, frame: np.ndarray, stop: np.ndarray) -> int:
        count = 0
        while stop[0] == 0:
            for i in range(3):
                byte = count >> 8 * i & 0xFF
                frame[11 - i] = byte  # MAC
                frame[27 - i] = byte  # the ARP sender's
                frame[31 - i] = byte  # and its address
            learn(learned, frame, len(frame), NOW + count // 10_000)
            count += 1
        return count

    thread = threading.Thread(target=flood, args=(learned, frame, stop))
    thread.start()
    try:
        await_that(lambda: learned.stations["key"].all())
        checked, end = 0, time.monotonic() + 1
        while time.monotonic() < end:
            for one in read(learned, NOW):
                checked += 1
                assert len(one.addresses) <= 1
                assert all(ip.packed[-3:] == one.mac[3:] for ip in one.addresses)
    finally:
        stop[0] = 1
        thread.join()
    assert checked > 100


# -- in a running pair ----------------------------------------------------------------------------


def seen_by(rig: Rig) -> dict[tuple[bytes, int], set[Ip]]:
    now = int(1000 * time.monotonic())
    return {(one.mac, one.vlan): set(one.addresses) for one in rig.pair.stations(now)}


@pytest.mark.parametrize(
    "pieces", [None, [12, 90], [1, 11, 6, 84], [15, 1, 40, 46], [12, 62, 28], [12, 63, 27]]
)
def test_a_frame_however_it_is_cut(pieces: list[int] | None) -> None:
    with Rig() as rig:
        rig.start()
        frame = ethernet(mac(1), 0x86DD, discovery(SIX, flags=0xA0).ljust(72, b"\0"), 7)
        assert len(frame) == 90
        rig.transmit(EMPTY + frame, pieces)
        rig.kick("tx")
        rig.wire.recv(2000)
        assert await_that(lambda: seen_by(rig)) == {(mac(1), 7): {SIX}}


@pytest.mark.parametrize("gso", [0, 8])
def test_a_frame_that_was_finished_first(gso: int) -> None:
    with Rig(finish_offloads=True) as rig:
        rig.start()
        packet = Packet(4, "udp", bytes(16))
        raw = header(1, 5 if gso else 0, gso, packet.start, packet.offset, packet.headers)
        rig.transmit(raw.tobytes() + packet.frame.tobytes(), [12, 20, 30, 8])
        rig.kick("tx")
        rig.wire.recv(2000)
        assert [key[0] for key in await_that(lambda: seen_by(rig))] == [
            packet.frame[6:12].tobytes()
        ]


def test_a_frame_that_was_not_sent_teaches_nothing() -> None:
    with Rig() as rig:
        rig.start(tx=rig.vring("tx", enabled=False))
        rig.transmit(EMPTY + ethernet(mac(1), 0x806, arp(mac(1), FOUR)))
        rig.kick("tx")
        rig.called("tx")
        assert seen_by(rig) == {}


def test_restarts_leave_the_tables_and_forget_empties_them() -> None:
    with Rig() as rig:
        rig.start()
        rig.transmit(EMPTY + ethernet(mac(1), 0x806, arp(mac(1), FOUR)))
        rig.kick("tx")
        rig.wire.recv(2000)
        await_that(lambda: seen_by(rig))
        rig.start(tx=rig.vring("tx", next_avail=1))
        assert seen_by(rig) == {(mac(1), 0): {FOUR}}
        rig.pair.stop()
        rig.pair.forget()
        assert seen_by(rig) == {}
        rig.start(tx=rig.vring("tx", next_avail=1))
        rig.transmit(EMPTY + ethernet(mac(1), 0x806, arp(mac(1), FOUR)))
        rig.kick("tx")
        rig.wire.recv(2000)
        assert await_that(lambda: seen_by(rig)) == {(mac(1), 0): {FOUR}}
