# SPDX-License-Identifier: Apache-2.0
"""ARP and ping answers, decoded by another library."""

from ipaddress import IPv4Address

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.guest.driver.responder import Responder

GUEST_MAC, ASKER_MAC = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
GUEST, ASKER = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
RESPONDER = Responder(GUEST_MAC, GUEST)


def arp_request(target: IPv4Address) -> bytes:
    arp = dpkt.arp.ARP(
        op=dpkt.arp.ARP_OP_REQUEST, sha=ASKER_MAC, spa=ASKER.packed, tpa=target.packed
    )
    return bytes(dpkt.ethernet.Ethernet(dst=b"\xff" * 6, src=ASKER_MAC, type=0x0806, data=arp))


def ping(data: bytes, to: IPv4Address = GUEST, options: bytes = b"") -> bytes:
    echo = dpkt.icmp.ICMP(type=8, data=dpkt.icmp.ICMP.Echo(id=7, seq=9, data=data))
    ip = dpkt.ip.IP(src=ASKER.packed, dst=to.packed, p=1, opts=options, data=echo)
    ip.hl, ip.len = 5 + len(options) // 4, len(ip)
    return bytes(dpkt.ethernet.Ethernet(dst=GUEST_MAC, src=ASKER_MAC, type=0x0800, data=ip))


def test_arp() -> None:
    answer = RESPONDER.answer(arp_request(GUEST))
    assert answer is not None
    frame = dpkt.ethernet.Ethernet(answer)
    assert (frame.dst, frame.src, len(answer)) == (ASKER_MAC, GUEST_MAC, 60)
    arp = frame.data
    assert (arp.op, arp.sha, arp.spa) == (dpkt.arp.ARP_OP_REPLY, GUEST_MAC, GUEST.packed)
    assert (arp.tha, arp.tpa) == (ASKER_MAC, ASKER.packed)


@given(st.binary(max_size=1400), st.sampled_from([b"", b"\x01\x01\x01\x00"]))
def test_ping(data: bytes, options: bytes) -> None:
    answer = RESPONDER.answer(ping(data, options=options))
    assert answer is not None
    frame = dpkt.ethernet.Ethernet(answer)
    assert (frame.dst, frame.src) == (ASKER_MAC, GUEST_MAC)
    ip = frame.data
    assert (ip.src, ip.dst) == (GUEST.packed, ASKER.packed)
    icmp = ip.data
    assert (icmp.type, icmp.data.id, icmp.data.seq, icmp.data.data) == (0, 7, 9, data)
    seen, icmp.sum = icmp.sum, 0
    assert dpkt.icmp.ICMP(bytes(icmp)).sum == seen
    seen, ip.sum = ip.sum, 0
    assert dpkt.ip.IP(bytes(ip)).sum == seen


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        bytes(14),
        arp_request(ASKER),
        arp_request(GUEST)[:30],
        ping(b"x", to=ASKER),
        ping(b"x")[:36],
        ping(b"x")[:20] + b"\x20\0" + ping(b"x")[22:],
        ping(b"x")[:20] + b"\0\5" + ping(b"x")[22:],
        bytes(6) + ping(b"x")[6:],
        RESPONDER.announcement(),
        RESPONDER.answer(arp_request(GUEST)),
        RESPONDER.answer(ping(b"x")),
    ],
)
def test_all_else_stays_unanswered(frame: bytes) -> None:
    assert RESPONDER.answer(frame) is None


def test_announcement_is_a_gratuitous_arp() -> None:
    frame = dpkt.ethernet.Ethernet(RESPONDER.announcement())
    assert (frame.dst, frame.src) == (b"\xff" * 6, GUEST_MAC)
    arp = frame.data
    assert (arp.op, arp.sha) == (dpkt.arp.ARP_OP_REQUEST, GUEST_MAC)
    assert arp.spa == arp.tpa == GUEST.packed
