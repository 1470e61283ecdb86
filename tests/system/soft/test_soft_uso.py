# SPDX-License-Identifier: Apache-2.0
"""Large UDP frames (USO) of a guest and for one, which are many datagrams to everybody else."""

import os
import platform
import socket
import struct

import dpkt
import pytest
from soft_ports import GUEST_MAC, OTHER_MAC, receive_all

from ovs_vhost_plugin.guest.driver.driver import F_NEEDS_CSUM, GSO_NONE, GSO_UDP_L4, NetHeader
from ovs_vhost_plugin.guest.soft import FEATURES, Config
from ovs_vhost_plugin.vhost.spec import Feature

pytestmark = pytest.mark.system

SOL_PACKET, PACKET_VNET_HDR = 263, 15  # linux/if_packet.h
SENDS = FEATURES | Feature.CSUM.mask | Feature.HOST_USO.mask
ACCEPTS_CSUM = FEATURES | Feature.GUEST_CSUM.mask
ACCEPTS = ACCEPTS_CSUM | Feature.GUEST_USO4.mask | Feature.GUEST_USO6.mask
HEADERS = {4: 14 + 20 + 8, 6: 14 + 40 + 8}
# gso_size and payload: several datagrams and a rest, none, the most that IP holds, the smallest.
CASES = [(1000, 4500), (1472, 3 * 1472), (1400, 65_535 - 28), (8, 100), (1200, 700)]


def large(version, size, payload, *, outward, gso=GSO_UDP_L4):
    """A frame of UDP and its header: the checksum is begun with the pseudo header's sum."""
    to, source = (OTHER_MAC, GUEST_MAC) if outward else (GUEST_MAC, OTHER_MAC)
    length = 8 + len(payload)
    if version == 4:
        addresses = socket.inet_aton("10.1.0.1") + socket.inet_aton("10.1.0.2")
        ip = dpkt.ip.IP(id=65_530, p=17, src=addresses[:4], dst=addresses[4:], len=20 + length)
        network, kind = ip.pack_hdr()[:10] + b"\0\0" + addresses, 0x0800
        network = network[:10] + struct.pack("!H", dpkt.in_cksum(network)) + network[12:]
    else:
        addresses = bytes(range(32))
        network, kind = struct.pack("!IHBB", 6 << 28, length, 17, 64) + addresses, 0x86DD
    begun = 0xFFFF - dpkt.in_cksum(addresses + struct.pack("!II", length, 17))
    udp = struct.pack("!HHHH", 1000, 2000, length, begun)
    frame = to + source + struct.pack("!H", kind) + network + udp + payload
    start = 14 + len(network)
    return NetHeader(F_NEEDS_CSUM, gso, start + 8, size, start, 6), frame


def check_datagrams(frames, version, size, payload):
    """They are whole, their checksums are right, and they carry the payload, cut at `size`."""
    found = []
    for number, frame in enumerate(frames):
        ip = dpkt.ethernet.Ethernet(frame).data
        assert len(frame) == HEADERS[version] + len(ip.data.data)
        transport = frame[HEADERS[version] - 8 :]
        pseudo = ip.src + ip.dst + struct.pack("!II", len(transport), 17)
        assert ip.data.ulen == len(transport) and ip.data.sum
        assert dpkt.in_cksum(pseudo + transport) == 0
        if version == 4:
            assert dpkt.in_cksum(frame[14:34]) == 0
            assert (ip.len, ip.id) == (len(frame) - 14, (65_530 + number) & 0xFFFF)
        found.append(ip.data.data)
    assert found == [payload[at : at + size] for at in range(0, len(payload), size)]


@pytest.mark.parametrize("version", [4, 6])
def test_a_large_frame_of_the_guest_leaves_as_datagrams(port, version):
    guest = port.guest(Config(features=SENDS, size=64))
    for size, length in CASES:
        payload = os.urandom(length - (20 if version == 6 and length > 65_000 else 0))
        header, frame = large(version, size, payload, outward=True)
        with port.capture() as capture:
            guest.send(frame, header=header)
            guest.drain()
            sent = port.sent(capture, -(-len(payload) // size))
        check_datagrams(sent, version, size, payload)
    assert port.counters()["tx_packets"] == len(CASES)
    assert port.errors() == {}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("accepts", [ACCEPTS, ACCEPTS_CSUM], ids=["uso", "no-uso"])
def test_a_large_frame_comes_to_the_guest_as_it_accepts_it(port, accepts, version, require):
    release = tuple(int(part) for part in platform.release().split(".")[:2])
    require(release >= (6, 2), "Linux knows USO from 6.2 on")
    guest = port.guest(Config(features=accepts))
    payload = os.urandom(20_000)
    header, frame = large(version, 1400, payload, outward=False)
    with port.host.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        wire.bind((port.name, 0))
        wire.send(header.pack(10) + frame)
    whole = accepts == ACCEPTS
    received = [got for _, got in receive_all(guest, 1 if whole else 15)]
    if whole:
        ((got),) = received
        assert got.frame == frame
        assert (got.header.gso_type, got.header.gso_size) == (GSO_UDP_L4, 1400)
        assert (got.header.csum_start, got.header.csum_offset) == (HEADERS[version] - 8, 6)
    else:
        assert {got.header.gso_type for got in received} == {GSO_NONE}
        assert [got.frame[HEADERS[version] :] for got in received] == [
            payload[at : at + 1400] for at in range(0, len(payload), 1400)
        ]
