# SPDX-License-Identifier: Apache-2.0
"""Large UDP frames (USO) of a guest and for one, which are many datagrams to everybody else."""

import os
import platform
import socket
import struct

import dpkt
import pytest
from support.system.large_udp import HEADERS, PACKET_VNET_HDR, SOL_PACKET, large
from support.system.soft_ports import receive_all

from ovs_vhost_plugin.guest.driver.driver import GSO_NONE, GSO_UDP_L4
from ovs_vhost_plugin.guest.soft import FEATURES, Config
from ovs_vhost_plugin.vhost.spec import Feature

pytestmark = pytest.mark.system

SENDS = FEATURES | Feature.CSUM.mask | Feature.HOST_USO.mask
ACCEPTS_CSUM = FEATURES | Feature.GUEST_CSUM.mask
ACCEPTS = ACCEPTS_CSUM | Feature.GUEST_USO4.mask | Feature.GUEST_USO6.mask
# gso_size and payload: several datagrams and a rest, none, the most that IP holds, the smallest.
CASES = [(1000, 4500), (1472, 3 * 1472), (1400, 65_535 - 28), (8, 100), (1200, 700)]


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
