# SPDX-License-Identifier: Apache-2.0
"""Linux: checksums and segmentation that a tap leaves to whoever reads it, and the other way."""

import errno
import os
import socket

import pytest

from docs.platform.kit import (
    IFF_VNET_HDR,
    TUN_F_CSUM,
    TUN_F_TSO4,
    TUN_F_UFO,
    TUN_F_USO,
    TUNSETOFFLOAD,
    Tap,
    checksum_is_right,
    frame,
    net_header,
    tcp,
    udp,
    up,
)
from ovs_vhost_plugin.lab.process import wait_until

PACKET_VNET_HDR = 15  # linux/if_packet.h
GSO_TCPV4, GSO_UDP = 1, 3  # virtio 1.2, 5.1.6
UDP_CHECKSUM, TCP_CHECKSUM = (34, 6), (34, 16)
LARGE = net_header(checksum=TCP_CHECKSUM, gso=(GSO_TCPV4, 54, 1000)) + tcp(3000)


@pytest.fixture
def tap(namespace):
    made = Tap("tap0", IFF_VNET_HDR)
    up(namespace, "tap0")
    yield made
    made.close()


@pytest.fixture
def wire(tap):
    """A packet socket with virtio-net headers, as Open vSwitch has it with userspace-tso-enable."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.setsockopt(263, PACKET_VNET_HDR, 1)  # SOL_PACKET
    made.setblocking(False)
    made.bind(("tap0", 0x0003))
    yield made
    made.close()


def read(tap):
    """Each frame that waits, with its header."""
    return [(data[:10], data[10:]) for data in tap.frames()]


def test_the_kernel_completes_checksums_that_the_tap_does_not_take(tap, wire):
    tap.set(TUNSETOFFLOAD, 0)
    wire.send(net_header(checksum=UDP_CHECKSUM) + udp(b"hello", partial=True))
    ((header, data),) = read(tap)
    assert header == net_header() and checksum_is_right(data)


def test_a_tap_that_takes_them_gets_checksums_as_they_are(tap, wire):
    tap.set(TUNSETOFFLOAD, TUN_F_CSUM)
    sent = net_header(checksum=UDP_CHECKSUM) + udp(b"hello", partial=True)
    wire.send(sent)
    assert tap.frames() == [sent]


def test_the_kernel_segments_what_the_tap_does_not_take(tap, wire):
    tap.set(TUNSETOFFLOAD, TUN_F_CSUM)
    wire.send(LARGE)
    assert [len(data) for _, data in read(tap)] == [1054, 1054, 1054]


def test_a_tap_that_takes_them_gets_large_frames_whole(tap, wire):
    tap.set(TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
    wire.send(LARGE)
    assert list(map(without_hint, tap.frames())) == [without_hint(LARGE)]


def test_no_tap_gets_a_large_udp_datagram_whole(tap, wire):
    """Since 4.14 Linux makes IP fragments before the tap, whatever TUN_F_UFO asks for."""
    tap.set(TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_UFO)
    large = udp(b"", partial=True, length=3000)
    wire.send(net_header(checksum=UDP_CHECKSUM, gso=(GSO_UDP, 42, 1480)) + large)
    fragments = [int.from_bytes(data[20:22], "big") for _, data in read(tap)]
    assert len(fragments) == 3
    assert [bool(word & 0x2000) for word in fragments] == [True, True, False]


def test_segmentation_needs_checksums_and_uso_comes_for_both_or_none(tap):
    tap.set(TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_USO)
    for wrong in (TUN_F_TSO4, TUN_F_CSUM | 0x20, TUN_F_CSUM | 0x40):
        with pytest.raises(OSError) as caught:
            tap.set(TUNSETOFFLOAD, wrong)
        assert caught.value.errno == errno.EINVAL


def test_a_bridge_of_ours_sees_the_header_that_a_guest_wrote(tap, wire):
    os.write(tap.fd, LARGE)
    seen = wait_until(lambda: received(wire), "the frame")
    assert without_hint(seen) == without_hint(LARGE)


def test_a_header_that_points_out_of_its_frame_is_refused(tap):
    with pytest.raises(OSError) as caught:
        os.write(tap.fd, net_header(checksum=(1000, 0)) + frame())
    assert caught.value.errno == errno.EINVAL


def without_hint(data):
    """Without hdr_len, a hint that the kernel sets anew."""
    return data[:2] + data[4:]


def received(wire):
    try:
        return wire.recv(1 << 17)
    except BlockingIOError:
        return None
