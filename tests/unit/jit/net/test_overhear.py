# SPDX-License-Identifier: Apache-2.0
"""What others claim towards the guest, beside a plain reference; frames as in learn_reference."""

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv6Address

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.jit.learn_reference import Ip, arp, discovery, ethernet, ipv4, ipv6, mac
from support.jit.pair_rig import EMPTY, RX_BUFFERS, Rig, await_that

from ovs_vhost_plugin.jit import fresh
from ovs_vhost_plugin.jit.net.learn import look_again
from ovs_vhost_plugin.jit.net.overhear import hear
from ovs_vhost_plugin.net.station import StationKey
from ovs_vhost_plugin.worker.learned.movedon import Watch
from ovs_vhost_plugin.worker.learned.stations import LearnedStation

FOUR, SIX = IPv4Address("10.0.0.2"), IPv6Address("fe80::5054:ff:fe00:1")
GUEST, OTHER = 1, 2  # numbers of MACs
NUMBER = 0x5254_0000_0000

Watched = set[tuple[int, int, Ip]]


class Ear:
    """The tables of one queue pair that listens for `watched`."""

    def __init__(self, watched: Watched, fd: int = -1) -> None:
        self.watch = Watch()
        self.learned = fresh.new_learned(fd, self.watch.tables)
        stations = [
            LearnedStation((NUMBER + one).to_bytes(6, "big"), vlan, 1, False, {ip: 1})
            for one, vlan, ip in watched
        ]
        self.watch.follow(stations, 0)

    def hear(self, frame: bytes) -> Watched:
        """The addresses that others have claimed by now."""
        padded = np.frombuffer(b"\xa5" * 12 + frame + b"\xa5" * 99, np.uint8).copy()
        hear(self.learned, padded, 12, 12 + len(frame))
        return {
            (int.from_bytes(mac, "big") - NUMBER, vlan, ip)
            for (mac, vlan), ip in self.watch.claims()
        }


ALL: Watched = {(GUEST, 0, FOUR), (GUEST, 7, FOUR), (GUEST, 0, SIX), (GUEST, 7, SIX)}


@pytest.mark.parametrize("tags", [(), (7,), (0xE007,)])
@pytest.mark.parametrize(
    ("kind", "payload", "ip"),
    [
        (0x806, arp(mac(OTHER), FOUR), FOUR),
        (0x806, arp(mac(OTHER), FOUR, 2), FOUR),
        (0x86DD, discovery(SIX), SIX),
        (0x86DD, discovery(SIX, 135), SIX),
        (0x86DD, discovery(SIX, 134), SIX),
    ],
)
def test_what_another_claims_is_heard_in_its_vlan(
    kind: int, payload: bytes, ip: Ip, tags: tuple[int, ...]
) -> None:
    heard = Ear(ALL).hear(ethernet(mac(OTHER), kind, payload, *tags))
    assert heard == {(GUEST, 7 if tags else 0, ip)}


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (0x806, arp(mac(GUEST), FOUR)),  # an announcement of the guest's own that came back
        (0x806, arp(mac(3), FOUR)),  # in a frame of another's
        (0x806, arp(mac(OTHER), IPv4Address("0.0.0.0"))),  # a probe
        (0x806, arp(mac(OTHER), IPv4Address("10.0.0.3"))),
        (0x806, arp(mac(OTHER), FOUR)[:27]),
        (0x86DD, ipv6(IPv6Address("::"), 58, 255, b"\x87" + bytes(7) + SIX.packed)),  # a probe
        (0x86DD, discovery(SIX, hops=64)),  # through a router
        (0x86DD, discovery(SIX)[:-1]),
        (0x86DD, ipv6(SIX)),
        (0x800, ipv4(FOUR)),
    ],
)
def test_what_is_no_claim_of_another_is_passed_over(kind: int, payload: bytes) -> None:
    source = mac(GUEST if payload[8:14] == mac(GUEST) else OTHER)
    assert Ear(ALL).hear(ethernet(source, kind, payload)) == set()


def test_an_advertisement_claims_its_target_and_not_its_source() -> None:
    """As a router of VRRP sends it, from an address of its own (RFC 5798, 6.4.1)."""
    source = IPv6Address("fe80::99")
    payload = ipv6(source, 58, 255, b"\x88" + bytes(7) + SIX.packed)
    ear = Ear({*ALL, (GUEST, 0, source)})
    assert ear.hear(ethernet(mac(OTHER), 0x86DD, payload)) == {(GUEST, 0, SIX)}


IPS = st.sampled_from(
    [FOUR, SIX, IPv4Address("10.0.0.3"), IPv4Address("0.0.0.0"), IPv6Address("::")]
)
NUMBERS = st.integers(1, 3)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    source, sender, ip = draw(NUMBERS), draw(NUMBERS), draw(IPS)
    tags = draw(st.sampled_from([(), (7,), (5,), (7, 5)]))
    if isinstance(ip, IPv4Address):
        kind, payload = draw(
            st.sampled_from([(0x806, arp(mac(sender), ip)), (0x806, arp(mac(source), ip, 2))])
        )
    else:
        hops, message = (
            draw(st.sampled_from([255, 64])),
            draw(st.sampled_from([133, 134, 135, 136])),
        )
        kind, payload = 0x86DD, discovery(ip, message, hops)
    frame = ethernet(mac(source), kind, payload, *tags)
    return frame[: draw(st.integers(0, len(frame)))] if draw(st.booleans()) else frame


def reference(watched: Watched, frame: bytes) -> Watched:
    """Which addresses are another's, in plain Python, by the RFCs."""
    if len(frame) < 14:
        return set()
    source, kind, packet, vlan = frame[6:12], frame[12:14], frame[14:], 0
    if kind in (b"\x81\x00", b"\x88\xa8") and len(packet) >= 4:
        vlan, kind, packet = int.from_bytes(packet[:2], "big") % 4096, packet[2:4], packet[4:]
    ip: Ip | None = None
    if kind == b"\x08\x06" and len(packet) >= 28 and packet[8:14] == source:
        ip = IPv4Address(packet[14:18])
    if kind == b"\x86\xdd" and len(packet) >= 45 and packet[6:8] == b"\x3a\xff":
        if packet[40] in (134, 135):
            ip = IPv6Address(packet[8:24])
        elif packet[40] == 136 and len(packet) >= 64:
            ip = IPv6Address(packet[48:64])
    if ip is None or ip.is_unspecified:
        return set()
    return {one for one in watched if one[1:] == (vlan, ip) and mac(one[0]) != source}


@given(
    watched=st.sets(st.tuples(NUMBERS, st.sampled_from([0, 5, 7]), IPS.filter(int))),
    heard=st.lists(frames(), max_size=4),
)
def test_any_frames_end_what_the_reference_ends(watched: Watched, heard: list[bytes]) -> None:
    ear, expected = Ear(watched), set()
    for frame in heard:
        expected |= reference(watched, frame)
        assert ear.hear(frame) == expected


def test_the_worker_is_woken_once_and_not_by_what_concerns_nobody() -> None:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        ear = Ear(ALL, fd)
        ear.hear(ethernet(mac(OTHER), 0x806, arp(mac(OTHER), IPv4Address("10.0.0.3"))))
        with pytest.raises(BlockingIOError):
            os.eventfd_read(fd)
        for _ in range(2):
            ear.hear(ethernet(mac(OTHER), 0x806, arp(mac(OTHER), FOUR)))
        assert os.eventfd_read(fd) == 1
        look_again(ear.learned)
    finally:
        os.close(fd)


# -- in the ring ----------------------------------------------------------------------------------

CLAIM = ethernet(mac(OTHER), 0x806, arp(mac(OTHER), FOUR))


UNICAST = mac(GUEST) + CLAIM[6:]
JUMBO = ethernet(mac(OTHER), 0x806, arp(mac(OTHER), FOUR) + bytes(3000))


@pytest.mark.usefixtures("both_layouts")
@pytest.mark.parametrize(
    "pieces", [[2000], [12, 2000], [5, 7, 2000], [20, 20, 1960], [12, 1, 5, 30, 1960]]
)
def test_a_claim_is_heard_however_the_drivers_buffers_are_cut(pieces: list[int]) -> None:
    watch = Ear({(GUEST, 0, FOUR)}).watch
    with Rig(watch=watch.tables) as rig:
        at, buffers = RX_BUFFERS, []
        for length in pieces:
            buffers.append((at, length))
            at += length
        rig.rx.offer(rig.rx.chain(0, buffers, write=True))
        rig.start()
        rig.wire.send(EMPTY + CLAIM)
        rig.called("rx")
        assert rig.memory.read(RX_BUFFERS + 12, len(CLAIM)) == CLAIM
        assert set(watch.claims()) == {(StationKey((NUMBER + GUEST).to_bytes(6, "big"), 0), FOUR)}


@pytest.mark.usefixtures("both_layouts")
def test_a_claim_in_a_frame_that_waited_for_buffers_is_heard_when_it_comes() -> None:
    watch = Ear({(GUEST, 0, FOUR)}).watch
    with Rig(watch=watch.tables) as rig:
        rig.offer_buffers(1, 1000)
        rig.start()
        rig.wire.send(EMPTY + JUMBO)
        rig.idle()
        assert watch.claims() == {}
        rig.offer_buffers(4, 1000, first=1)
        rig.kick("rx")
        rig.called("rx")
        assert set(watch.claims()) == {(StationKey((NUMBER + GUEST).to_bytes(6, "big"), 0), FOUR)}


def test_a_frame_to_the_guest_alone_is_not_looked_into() -> None:
    watch = Ear({(GUEST, 0, FOUR)}).watch
    with Rig(watch=watch.tables) as rig:
        rig.offer_buffers(2, 2000)
        rig.start()
        for frame in (UNICAST, b""):
            rig.wire.send(EMPTY + frame)
        await_that(lambda: rig.pair.counters["rx_packets"] == 2)
        assert watch.claims() == {}


def test_an_address_is_heard_of_in_whichever_pair_it_was_learned() -> None:
    """A claim comes to one queue, which need not be that by which the guest has sent."""
    watch = Ear({(GUEST, 0, FOUR)}).watch
    with Rig(watch=watch.tables) as rig, Rig(watch=watch.tables) as other:
        rig.start()
        other.offer_buffers(1, 2000)
        other.start()
        other.wire.send(EMPTY + CLAIM)
        other.called("rx")
        assert set(watch.claims()) == {(StationKey((NUMBER + GUEST).to_bytes(6, "big"), 0), FOUR)}
