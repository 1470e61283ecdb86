# SPDX-License-Identifier: Apache-2.0
import dpkt
import pytest

from ovs_vhost_plugin.lab.capture import Frame


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
