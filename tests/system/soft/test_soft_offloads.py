# SPDX-License-Identifier: Apache-2.0
"""Who finishes what a guest leaves undone, where the switch takes it and a tunnel may not."""

import os
import re
import socket
import struct
from contextlib import ExitStack

import dpkt
import pytest
from support.system.soft_ports import GUEST_MAC

from ovs_vhost_plugin.daemon.ovsdb.tunnels import version_of
from ovs_vhost_plugin.guest.driver.driver import F_NEEDS_CSUM, GSO_TCPV4, NetHeader
from ovs_vhost_plugin.guest.soft import FEATURES, Config, SoftGuest
from ovs_vhost_plugin.lab import process
from ovs_vhost_plugin.lab.hosts import overlay
from ovs_vhost_plugin.lab.hosts.fabric import CLIENT_MAC, Fabric
from ovs_vhost_plugin.lab.measure.capture import Capture
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost.spec import Feature

pytestmark = pytest.mark.system

PORT = "vhu0"
SENDS = FEATURES | Feature.CSUM.mask | Feature.HOST_TSO4.mask
SIZE, HEADERS = 1300, 14 + 20 + 20


@pytest.fixture(scope="module")
def site(require):
    """A guest on host a of three switches with userspace-tso-enable, joined by VXLAN."""
    words = packages.missing(packages.SWITCH, root=False)
    require(words is None, words)
    with ExitStack() as stack:
        fabric = stack.enter_context(Fabric(userspace_tso=True))
        overlay.lay(fabric, "vxlan", mesh=False)
        path = fabric.a.add_server_port(PORT)
        fabric.a.wait_status(PORT, "listening")
        fabric.a.wait_ofport(PORT)
        guest = SoftGuest(path, Config(mac=GUEST_MAC, features=SENDS))
        stack.callback(guest.close)
        guest.start()
        fabric.a.wait_running(PORT)
        fabric.a.wait_carrier(PORT)
        yield fabric, guest


def large(payload):
    """A TCP segment for the client, its checksum begun, and what it says of it."""
    addresses = socket.inet_aton("10.0.0.2") + socket.inet_aton("10.0.0.1")
    ip = dpkt.ip.IP(p=6, src=addresses[:4], dst=addresses[4:], len=40 + len(payload)).pack_hdr()
    ip = ip[:10] + struct.pack("!H", dpkt.in_cksum(ip)) + ip[12:]
    begun = 0xFFFF - dpkt.in_cksum(addresses + struct.pack("!HH", 6, 20 + len(payload)))
    tcp = struct.pack("!HHIIHHHH", 1000, 2000, 1, 1, 5 << 12 | 0x10, 1024, begun, 0)
    ethernet = bytes.fromhex(CLIENT_MAC.replace(":", "")) + GUEST_MAC + b"\x08\x00"
    return NetHeader(F_NEEDS_CSUM, GSO_TCPV4, HEADERS, SIZE, 34, 16), ethernet + ip + tcp + payload


def seen(capture, *, outgoing):
    return [
        frame.data
        for frame in capture.frames()
        if frame.outgoing is outgoing
        and frame.data[6:12] == GUEST_MAC
        and frame.data[12:14] == b"\x08\x00"
    ]


def told(host, finish):
    """The worker has been told so: what it is asked next it answers after that."""
    words = re.findall(f" {PORT}: .*finish_offloads (True|False)", host.log.read_text())
    return words and words[-1] == str(finish) and host.stats(PORT)


def comes_whole(fabric, guest):
    payload = os.urandom(10_000)
    header, frame = large(payload)
    with Capture(fabric.client, "eth0") as capture:
        guest.send(frame, header=header)
        guest.drain()
        wanted = -(-len(payload) // SIZE)
        wait_until(lambda: len(seen(capture, outgoing=False)) >= wanted, "the segments")
        segments = seen(capture, outgoing=False)
    got = b""
    for segment in segments:
        tcp = segment[34:]
        pseudo = segment[26:34] + struct.pack("!HH", 6, len(tcp))
        assert dpkt.in_cksum(segment[14:34]) == dpkt.in_cksum(pseudo + tcp) == 0
        got += tcp[20:]
    return got == payload


def goes_unfinished(fabric, guest):
    header, frame = large(os.urandom(10_000))
    with Capture(fabric.a.namespace, PORT) as capture:
        guest.send(frame, header=header)
        guest.drain()
        wait_until(lambda: seen(capture, outgoing=False), "the frame")
        return seen(capture, outgoing=False) == [frame]


def test_a_port_finishes_what_a_tunnel_would_drop_and_its_key_says_who_does(site):
    fabric, guest = site
    key = ("Interface", PORT, "external_ids:vhost-user-offloads=pass")
    assert comes_whole(fabric, guest)
    fabric.a.switch.vsctl("set", *key)
    wait_until(lambda: told(fabric.a, False), "it passes them on")
    assert goes_unfinished(fabric, guest)
    fabric.a.switch.vsctl("remove", "Interface", PORT, "external_ids", "vhost-user-offloads")
    wait_until(lambda: told(fabric.a, True), "it finishes them")
    assert comes_whole(fabric, guest)
    # A version whose tunnels finish them themselves.
    fabric.a.switch.vsctl("set", "Open_vSwitch", ".", "ovs_version=3.5.0")
    wait_until(lambda: told(fabric.a, False), "it passes them on")
    program = process.run(["ovs-vswitchd", "--version"]).stdout.split(")")[1]
    if version_of(program.strip()) >= (3, 5):
        assert comes_whole(fabric, guest)
    fabric.a.switch.vsctl("set", *key[:2], "external_ids:vhost-user-offloads=finish")
    wait_until(lambda: told(fabric.a, True), "it finishes them")
    assert comes_whole(fabric, guest)
