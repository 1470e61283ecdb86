# SPDX-License-Identifier: Apache-2.0
import dpkt
import pytest

from ovs_vhost_plugin.lab.measure.capture import Frame, TcpSegment


def udp_frame(payload: bytes, port: int = 7000) -> bytes:
    udp = dpkt.udp.UDP(sport=9, dport=port, data=payload, ulen=8 + len(payload))
    ip = dpkt.ip.IP(src=b"\n\0\0\1", dst=b"\n\0\0\2", p=dpkt.ip.IP_PROTO_UDP, data=udp)
    ip.len = 28 + len(payload)
    ethernet = dpkt.ethernet.Ethernet(dst=b"\2" * 6, src=b"\4" * 6, data=ip)
    return bytes(ethernet).ljust(60, b"\0")


def test_the_payload_comes_without_the_padding():
    frame = Frame(0.0, True, udp_frame(b"hello"))
    assert frame.udp_payload(7000) == b"hello"
    assert frame.ethertype == 0x0800


@pytest.mark.parametrize(
    "data",
    [
        udp_frame(b"hello", port=7001),
        udp_frame(b"hello").replace(b"\x08\x00\x45", b"\x08\x06\x45"),
        udp_frame(b"hello").replace(b"\x40\x11", b"\x40\x06"),
        udp_frame(b"hello")[:20],
        b"",
    ],
)
def test_anything_else_has_no_payload(data):
    assert Frame(0.0, True, data).udp_payload(7000) is None


def test_a_tag_does_not_hide_what_is_in_a_frame():
    plain = udp_frame(b"hello")
    frame = Frame(0.0, True, plain[:12] + b"\x81\x00\x00\x14" + plain[12:])
    assert frame.ethertype == 0x0800
    assert frame.udp_payload(7000) == b"hello"


def tcp_frame(payload: bytes, options: bytes = b"") -> bytes:
    tcp = dpkt.tcp.TCP(sport=40000, dport=5201, opts=options, data=payload)
    tcp.off = 5 + len(options) // 4
    ip = dpkt.ip.IP(src=b"\n\0\0\1", dst=b"\n\0\0\2", id=77, p=dpkt.ip.IP_PROTO_TCP, data=tcp)
    ip.len = 40 + len(options) + len(payload)
    return bytes(dpkt.ethernet.Ethernet(dst=b"\2" * 6, src=b"\4" * 6, data=ip)).ljust(60, b"\0")


def test_a_tcp_segment_is_one_that_has_payload():
    segment = Frame(0.0, True, tcp_frame(b"data", options=bytes(12))).tcp_segment(5201)
    assert segment == TcpSegment(identification=77, source=40000, payload=4)
    assert Frame(0.0, True, tcp_frame(b"")).tcp_segment(5201) is None
    assert Frame(0.0, True, tcp_frame(b"data")).tcp_segment(5202) is None
    assert Frame(0.0, True, udp_frame(b"data", port=5201)).tcp_segment(5201) is None
