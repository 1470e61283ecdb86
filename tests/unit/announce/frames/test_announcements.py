# SPDX-License-Identifier: Apache-2.0
import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.announce.frames.announcements import (
    checksum,
    gratuitous_arp,
    neighbor_advertisement,
    rarp,
)
from ovs_vhost_plugin.net.ethernet import MacError, tagged

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
    with pytest.raises(MacError) as refusal:
        rarp(mac)
    assert refusal.value.name == name


IPV4 = st.binary(min_size=4, max_size=4)
IPV6 = st.binary(min_size=16, max_size=16)
GUEST = st.binary(min_size=6, max_size=6).filter(lambda mac: any(mac) and not mac[0] & 1)


def test_gratuitous_arp_is_linuxs_frame_byte_for_byte():
    assert gratuitous_arp(MAC, bytes([192, 0, 2, 1])) == bytes.fromhex(
        "ffffffffffff"
        "525400123456"
        "0806"
        "0001 0800 06 04 0001"
        "525400123456 c0000201"
        "000000000000 c0000201"
        "000000000000000000000000000000000000"
    )


@given(GUEST, IPV4)
def test_gratuitous_arp_reads_back_in_an_independent_decoder(mac, ip):
    ethernet = dpkt.ethernet.Ethernet(gratuitous_arp(mac, ip))
    assert (ethernet.dst, ethernet.src, ethernet.type) == (b"\xff" * 6, mac, 0x0806)
    arp = ethernet.data
    assert (arp.op, arp.sha, arp.spa, arp.tha, arp.tpa) == (1, mac, ip, bytes(6), ip)


@given(GUEST, IPV6, st.booleans())
def test_an_advertisement_reads_back_in_an_independent_decoder(mac, ip, router):
    frame = neighbor_advertisement(mac, ip, router=router)
    ethernet = dpkt.ethernet.Ethernet(frame)
    assert (ethernet.dst, ethernet.src) == (bytes.fromhex("333300000001"), mac)
    assert frame[14:18] == bytes([0x60, 0, 0, 0])  # RFC 8200, 3: version 6, no class, no flow
    packet = ethernet.data
    all_nodes = bytes.fromhex("ff020000000000000000000000000001")
    assert (packet.src, packet.dst, packet.hlim, packet.nxt, packet.plen) == (
        ip,
        all_nodes,
        255,
        58,
        32,
    )
    message = packet.data
    assert (message.type, message.code) == (136, 0)
    assert message.sum == checksum_of(ip + all_nodes, frame[54:])
    flags = 0x20 | (0x80 if router else 0)  # override, not solicited
    assert frame[58:62] == bytes([flags, 0, 0, 0])
    assert frame[62:78] == ip
    assert frame[78:86] == b"\x02\x01" + mac
    assert len(frame) == 86


def checksum_of(addresses: bytes, message: bytes) -> int:
    """Compute the checksum by dpkt's own arithmetic, with the field itself zero."""
    pseudo = addresses + (32).to_bytes(4, "big") + (58).to_bytes(4, "big")
    return dpkt.in_cksum(pseudo + message[:2] + b"\0\0" + message[4:])


@pytest.mark.parametrize(
    ("words", "value"),
    [([], 0xFFFF), ([1], 0xFFFE), ([0xFFFF, 1], 0xFFFE), ([0xFFFF, 0xFFFF, 1], 0xFFFE)],
)
def test_a_checksum_carries_as_often_as_it_must(words, value):
    assert checksum(b"".join(word.to_bytes(2, "big") for word in words)) == value


@given(GUEST, st.integers(1, 4094))
def test_a_tag_goes_between_source_and_type(mac, vlan):
    ethernet = dpkt.ethernet.Ethernet(tagged(gratuitous_arp(mac, bytes(4)), vlan))
    (tag,) = ethernet.vlan_tags
    assert (tag.id, tag.pri, tag.cfi) == (vlan, 0, 0)
    assert isinstance(ethernet.data, dpkt.arp.ARP)
    assert tagged(rarp(mac), 0) == rarp(mac)


@pytest.mark.parametrize(
    "make",
    [
        lambda mac: gratuitous_arp(mac, bytes(4)),
        lambda mac: neighbor_advertisement(mac, bytes(16), router=False),
    ],
)
def test_no_frame_is_made_of_what_is_no_stations_address(make):
    with pytest.raises(MacError):
        make(b"\xff" * 6)
