# SPDX-License-Identifier: Apache-2.0
"""UDP of up to 64 KiB in one frame of a guest (UFO), and what Linux and its taps make of it."""

import json
import os
import platform
import socket

import pytest
from support.system.large_udp import HEADERS, PACKET_VNET_HDR, SOL_PACKET, large
from support.system.soft_ports import GUEST_MAC, SoftPort, receive_all

from ovs_vhost_plugin.guest.driver.driver import GSO_NONE, GSO_UDP, GSO_UDP_L4
from ovs_vhost_plugin.guest.soft import FEATURES, Config
from ovs_vhost_plugin.lab.measure.capture import SO_RCVBUFFORCE
from ovs_vhost_plugin.vhost.spec import Feature

pytestmark = pytest.mark.system

SENDS = FEATURES | Feature.CSUM.mask | Feature.HOST_UFO.mask | Feature.HOST_USO.mask
ACCEPTS = FEATURES | Feature.GUEST_CSUM.mask | Feature.GUEST_UFO.mask
USO = Feature.GUEST_USO4.mask | Feature.GUEST_USO6.mask
LINUX = tuple(int(part) for part in platform.release().split(".")[:2])
UDP_SEGMENT = 103  # linux/udp.h
KERNEL_BRIDGE = "br-kernel"
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
ADDRESS = {4: "10.1.0.2", 6: "1011:1213:1415:1617:1819:1a1b:1c1d:1e1f"}
PEER = {4: "10.1.0.1", 6: "1:203:405:607:809:a0b:c0d:e0f"}
"""Those of the frames that `large` makes."""


class Receiver:
    """A UDP socket of Linux's, which sits on the bridge's end of a tap, or on another device."""

    def __init__(self, port, version, device=None):
        self.namespace = namespace = port.host.namespace
        self.device = device = device or port.name
        self.socket = namespace.socket(FAMILY[version], socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 21)
        self.socket.settimeout(10)
        namespace.sysctl(f"net/ipv6/conf/{device}/disable_ipv6", "0")
        namespace.run("ip", "link", "set", device, "up")
        self.address = f"{ADDRESS[version]}/{24 if version == 4 else 64}"
        command = ("ip", "address", "add", self.address, "dev", device)
        namespace.run(*command, *(["nodad"] if version == 6 else []))
        self.socket.bind((ADDRESS[version], 2000))
        (link,) = json.loads(namespace.run("ip", "-json", "link", "show", "dev", device))
        self.mac = bytes.fromhex(link["address"].replace(":", ""))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.namespace.run("ip", "address", "delete", self.address, "dev", self.device)


@pytest.fixture
def cable(soft_host):
    """A cable, as Linux does not hear what a guest sends to a userspace bridge by the tap."""
    ends = ("linux0", "linux1")
    run = soft_host.namespace.run
    run("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
    for end in ends:
        run("ip", "link", "set", end, "mtu", "9000", "up")
    yield ends
    run("ip", "link", "delete", ends[0])


@pytest.fixture
def kernel_port(soft_host):
    """A port of a bridge that is said to be the kernel's, which has no say in what a tap takes."""
    vsctl = soft_host.switch.vsctl
    vsctl("add-br", KERNEL_BRIDGE, "--", "set", "Bridge", KERNEL_BRIDGE, "datapath_type=system")
    with SoftPort(soft_host, bridge=KERNEL_BRIDGE) as port:
        yield port
    vsctl("del-br", KERNEL_BRIDGE)


def sends(receiver, guest, version, size, payload, gso=GSO_UDP):
    header, frame = large(version, size, payload, outward=True, gso=gso)
    frame = receiver.mac + frame[6:]
    guest.send(frame, header=header)
    guest.drain()
    return frame


@pytest.mark.parametrize("version", [4, 6])
def test_linux_puts_the_fragments_of_a_large_datagram_together(port, cable, version):
    guest = port.guest(Config(features=SENDS, size=64))
    most = 65_535 - 28 if version == 4 else 65_535 - 8 - 54
    here, there = cable
    namespace = port.host.namespace
    with (
        Receiver(port, version, there) as receiver,
        namespace.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire,
    ):
        wire.bind((here, 0))
        for size, length in ((1480, 4500), (1448, most), (1479, 1400), (8, 100)):
            payload = os.urandom(length)
            with port.capture() as capture:
                sends(receiver, guest, version, size, payload)
                count = -(-(8 + length) // (size & ~7))
                sent = port.sent(capture, count)
            assert len(sent) == count
            assert max(map(len, sent)) <= HEADERS[version] + size
            for frame in sent:
                wire.send(frame)
            assert receiver.socket.recv(70_000) == payload
    assert port.counters()["tx_packets"] == 4
    assert port.errors() == {}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("gso", [GSO_UDP, GSO_UDP_L4], ids=["ufo", "uso"])
def test_a_tap_of_the_kernels_bridge_takes_large_frames_whole(kernel_port, version, gso, require):
    require(LINUX >= (6, 2), "a tap takes USO from Linux 6.2 on")
    port = kernel_port
    guest = port.guest(Config(features=SENDS, size=64))
    payload = os.urandom(20_000)
    with Receiver(port, version) as receiver, port.capture() as capture:
        frame = sends(receiver, guest, version, 1400, payload, gso)
        assert port.sent(capture, 1) == [frame]
        got = receiver.socket.recv(70_000)
        while len(got) < len(payload) and gso == GSO_UDP_L4:
            got += receiver.socket.recv(70_000)
        assert got == payload


@pytest.mark.parametrize("version", [4, 6])
def test_many_datagrams_of_one_call_come_to_the_guest_in_one_frame(port, version, require):
    """The other way: Linux's own USO (UDP_SEGMENT), as from a container on the kernel's bridge."""
    require(LINUX >= (6, 2), "a tap takes USO from Linux 6.2 on")
    guest = port.guest(Config(features=ACCEPTS | USO))
    payload = os.urandom(20_000)
    with Receiver(port, version) as sender:
        run, peer = port.host.namespace.run, PEER[version]
        run("ip", "route", "replace", peer, "dev", port.name)
        run("ip", "neigh", "replace", peer, "lladdr", GUEST_MAC.hex(":"), "dev", port.name)
        sender.socket.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1400)
        sender.socket.sendto(payload, (peer, 1000))
        large_ones = []
        while not large_ones:  # behind what IPv6 says of itself
            large_ones = [got for _, got in receive_all(guest, 1) if got.header.gso_type]
    ((got),) = large_ones
    assert (got.header.gso_type, got.header.gso_size) == (GSO_UDP_L4, 1400)
    assert got.frame[HEADERS[version] :] == payload


@pytest.mark.parametrize("version", [4, 6])
def test_a_large_datagram_comes_to_the_guest_in_fragments(port, version):
    """Also to one that would take it whole: since 4.14 Linux makes them before the tap."""
    guest = port.guest(Config(features=ACCEPTS))
    payload = os.urandom(20_000)
    header, frame = large(version, 1400, payload, outward=False, gso=GSO_UDP)
    with port.host.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        wire.bind((port.name, 0))
        wire.send(header.pack(10) + frame)
    received = [got for _, got in receive_all(guest, 15)]
    assert {got.header.gso_type for got in received} == {GSO_NONE}
    assert {got.frame[:6] for got in received} == {GUEST_MAC}
    begin = 34 if version == 4 else 62
    assert b"".join(got.frame[begin:] for got in received)[8:] == payload
