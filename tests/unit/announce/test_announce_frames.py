# SPDX-License-Identifier: Apache-2.0
import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.announce.frames import FrameError, rarp

MAC = bytes.fromhex("525400123456")


def test_rarp_is_qemus_frame_byte_for_byte():
    assert rarp(MAC) == bytes.fromhex(
        "ffffffffffff"
        "525400123456"
        "8035"
        "0001 0800 06 04 0003"
        "525400123456 00000000"
        "525400123456 00000000"
        "000000000000000000000000000000000000"
    )


@given(st.binary(min_size=6, max_size=6).filter(lambda mac: any(mac) and not mac[0] & 1))
def test_rarp_reads_back_in_an_independent_decoder(mac):
    frame = rarp(mac)
    assert len(frame) == 60
    ethernet = dpkt.ethernet.Ethernet(frame)
    assert (ethernet.dst, ethernet.src, ethernet.type) == (b"\xff" * 6, mac, 0x8035)
    arp = dpkt.arp.ARP(frame[14:42])
    assert (arp.hrd, arp.pro, arp.hln, arp.pln, arp.op) == (1, 0x0800, 6, 4, 3)
    assert (arp.sha, arp.spa, arp.tha, arp.tpa) == (mac, bytes(4), mac, bytes(4))
    assert frame[42:] == bytes(18)


@pytest.mark.parametrize(
    ("mac", "name"),
    [
        (b"", "mac-length"),
        (MAC[:5], "mac-length"),
        (MAC + b"\0\0", "mac-length"),
        (bytes(6), "mac-zero"),
        (b"\xff" * 6, "mac-multicast"),
        (bytes.fromhex("010000000001"), "mac-multicast"),
    ],
)
def test_what_is_no_stations_address_is_refused_by_name(mac, name):
    with pytest.raises(FrameError) as refusal:
        rarp(mac)
    assert refusal.value.name == name
