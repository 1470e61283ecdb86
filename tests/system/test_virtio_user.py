# SPDX-License-Identifier: Apache-2.0
"""DPDK's virtio-user on our ports, across a real bridge; what arrives is compared, not counted."""

import json
import os
import signal
import socket
import struct
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import dpkt
import pytest

from ovs_vhost_plugin.guest.responder import checksum
from ovs_vhost_plugin.lab import packages
from ovs_vhost_plugin.lab.capture import Capture
from ovs_vhost_plugin.lab.host import BRIDGE, Host
from ovs_vhost_plugin.lab.namespace import Namespace, veth
from ovs_vhost_plugin.lab.process import LabError, wait_until
from ovs_vhost_plugin.lab.virtiouser import VirtioUser, VirtioUserConfig
from ovs_vhost_plugin.vhost.spec import Feature, ProtocolFeature

pytestmark = pytest.mark.system

MAC = "52:54:00:00:00:01"
PEER_MAC = "52:54:00:00:00:99"
SMALLEST, LARGEST = 60, 1514
BURST = 32  # frames under way at once: fewer than the smallest ring has buffers
TESTPMD_BURST = 32
SECONDS = 10.0


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


class Peer:
    """A machine on the bridge, reached by the veth `p0`; it says only what a test lets it say."""

    def __init__(self, host):
        self.host = host
        self._closing = ExitStack()

    def __enter__(self):
        with ExitStack() as stack:
            self.namespace = stack.enter_context(Namespace("peer"))
            veth(self.host.namespace, "p0", self.namespace, "eth0")
            for place, device in ((self.host.namespace, "p0"), (self.namespace, "eth0")):
                place.run("ip", "link", "set", device, "mtu", "9000")
            self.host.switch.add_port(BRIDGE, "p0")
            self.host.wait_ofport("p0")
            self._socket = stack.enter_context(
                self.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW)
            )
            self._socket.bind(("eth0", 0))
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._closing.close()

    def exchange(self, frames):
        """Send frames, a burst at a time; what came back, when as much did."""
        answers = []
        with Capture(self.namespace, "eth0") as capture:
            for start in range(0, len(frames), BURST):
                burst = frames[start : start + BURST]
                for frame in burst:
                    self._socket.send(frame)
                answers += self.collect(capture, start + len(burst))[start:]
        return answers

    def collect(self, capture, count):
        """The datagrams that came in, when there are `count`; a guest that is back is announced."""

        def so_far():
            came = (frame for frame in capture.frames() if not frame.outgoing)
            return [frame.data for frame in came if frame.ethertype == 0x0800]

        def arrived():
            frames = so_far()
            return frames if len(frames) >= count else None

        try:
            return wait_until(arrived, f"{count} frames", SECONDS)
        except LabError as error:
            links = [self.host.namespace.run("ip", "-s", "link", "show", i) for i in ("vhu0", "p0")]
            seen = (error, f"{len(so_far())} came", stats(self.host), *links)
            pytest.fail("\n".join(map(str, seen)))


def datagram(to, source, size, port):
    """A frame of `size` bytes with UDP and a random payload; `port` gives the flow its hash."""
    payload = os.urandom(size - 42)
    addresses = socket.inet_aton("10.1.0.1"), socket.inet_aton("10.1.0.2")
    ip = struct.pack("!BBHHHBBH", 0x45, 0, size - 14, port, 0, 64, 17, 0) + b"".join(addresses)
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return mac(to) + mac(source) + b"\x08\x00" + ip + udp(port, 9, payload)


def udp(source, destination, payload):
    return struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload


def macswapped(frame):
    return frame[6:12] + frame[:6] + frame[12:]


def tuple_swapped(frame):
    """Both MACs, both addresses and both ports, each with the other."""
    ip, ports = frame[14:34], frame[34:38]
    swapped = (ip[:12], ip[16:20], ip[12:16], ports[2:], ports[:2], frame[38:])
    return macswapped(frame)[:14] + b"".join(swapped)


def frames_of(sizes):
    return [datagram(MAC, PEER_MAC, size, 1000 + n) for n, size in enumerate(sizes)]


@pytest.fixture(scope="module")
def host(require):
    words = packages.missing((*packages.SWITCH, *packages.TEST), root=False)
    require(words is None, words)
    with ExitStack() as stack:
        # Not pytest's directory: a socket's path has at most 107 bytes.
        top = stack.enter_context(TemporaryDirectory(prefix="ovs-vhost-"))
        made = stack.enter_context(Host("dpdk", Path(top, "h")))
        yield made


@pytest.fixture(scope="module")
def peer(host):
    with Peer(host) as made:
        yield made


@pytest.fixture
def plug(host):
    """`plug(mode, config)`: a port and a running testpmd on it."""
    with ExitStack() as stack:

        def make(mode, config):
            settings = [f"external_ids:vhost-user-queues={config.queues}"]
            if config.mtu > 1500:
                settings.append(f"mtu_request={config.mtu}")
            if mode == "client":
                path = host.add_client_port("vhu0", None, *settings)
            else:
                path = host.add_server_port("vhu0", *settings)
            stack.callback(remove, host)
            host.wait_ofport("vhu0")
            directory = host.directory / "testpmd"
            if mode == "server":
                host.wait_status("vhu0", "listening", 60)
            # A worker in client mode connects, so it is testpmd that listens.
            user = VirtioUser(host.namespace, directory, path, config, server=mode == "client")
            stack.enter_context(user)
            host.wait_status("vhu0", "running")
            # The kernel takes a moment to let frames into a tap whose link has come up.
            host.switch.wait_until("Interface", "vhu0", "link_state=up")
            return user

        yield make


def remove(host):
    """Remove the port and await the end of its worker, so that the next test begins afresh."""
    host.delete_port("vhu0")
    pid = host.directory / "ovs-vhost" / "vhu0.pid"
    wait_until(lambda: not pid.exists(), "the worker's end")


def stats(host):
    answer = json.loads(host.appctl("vhost/stats", "vhu0", "--format", "json"))
    return answer["ports"].get("vhu0", {})


CONFIGS = {
    "client": ("client", VirtioUserConfig(MAC)),
    "server": ("server", VirtioUserConfig(MAC)),
    "client-64-plain": (
        "client",
        VirtioUserConfig(MAC, queue_size=64, mergeable=False, in_order=False),
    ),
    "server-1024": ("server", VirtioUserConfig(MAC, queue_size=1024)),
    "server-128-vectorized": (
        "server",
        VirtioUserConfig(MAC, queue_size=128, mergeable=False, vectorized=True),
    ),
    "client-9000": ("client", VirtioUserConfig(MAC, queue_size=512, mtu=9000)),
    "client-packed": ("client", VirtioUserConfig(MAC, packed=True, in_order=False)),
    "server-packed-in-order": ("server", VirtioUserConfig(MAC, packed=True)),
    "server-1024-packed-plain": (
        "server",
        VirtioUserConfig(MAC, queue_size=1024, packed=True, in_order=False, mergeable=False),
    ),
    "client-64-packed-in-order-plain": (
        "client",
        VirtioUserConfig(MAC, queue_size=64, packed=True, mergeable=False),
    ),
    "server-packed-vectorized": (
        "server",
        VirtioUserConfig(MAC, packed=True, mergeable=False, vectorized=True),
    ),
    "client-packed-9000": ("client", VirtioUserConfig(MAC, queue_size=512, packed=True, mtu=9000)),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_frames_pass_whole_both_ways(name, host, peer, plug):
    mode, config = CONFIGS[name]
    user = plug(mode, config)
    acknowledged = int(host.status("vhu0")["protocol-features"], 16)
    for bit in (ProtocolFeature.REPLY_ACK, ProtocolFeature.STATUS):
        assert acknowledged & bit.mask, bit.name
    check_what_testpmd_sends(user, peer)
    check_what_testpmd_gives_back(user, peer)
    features = int(host.status("vhu0")["features"], 16)
    for bit, wanted in ((Feature.RING_PACKED, config.packed), (Feature.IN_ORDER, config.in_order)):
        assert bool(features & bit.mask) == wanted, bit.name
    assert stats(host)["errors"] == {}


def check_what_testpmd_sends(user, peer):
    """Frames of one descriptor and of more: headers right, nothing cut, nothing added."""
    # In order its driver uses no tables, and testpmd drops what finds no descriptors.
    most = user.config.queue_size // TESTPMD_BURST
    pieces = "64,256" if user.config.in_order and most < 3 else "64,256,512"
    for lengths in ("60", pieces, "1514"):
        size = sum(map(int, lengths.split(",")))
        with Capture(peer.namespace, "eth0") as capture:
            frames = []
            while len(frames) < 2 * TESTPMD_BURST:
                user.send(lengths)
                frames = peer.collect(capture, len(frames) + TESTPMD_BURST)
        assert len(frames) == 2 * TESTPMD_BURST
        for frame in frames:
            assert len(frame) == size
            ethernet = dpkt.ethernet.Ethernet(frame)
            ip = ethernet.data
            assert ethernet.src == mac(MAC)
            assert (ip.len, ip.p, checksum(frame[14:34])) == (size - 14, 17, 0)
            assert socket.inet_ntoa(ip.src) == "198.18.0.1"
            assert socket.inet_ntoa(ip.dst) == "198.18.0.2"
            assert ip.data.ulen == size - 34


def check_what_testpmd_gives_back(user, peer):
    """Frames of many sizes go in, through the guest's memory twice, and come out the same."""
    sizes = [*range(SMALLEST, LARGEST, 13), LARGEST]
    sizes += range(LARGEST, user.config.mtu + 14, 487)
    frames = frames_of(sizes)
    user.forward("macswap")
    answers = peer.exchange(frames)
    user.stop()
    assert answers == [macswapped(frame) for frame in frames]


def test_each_frame_is_steered_to_one_of_two_queue_pairs_and_comes_back(host, peer, plug):
    user = plug("server", VirtioUserConfig(MAC, queues=2))
    frames = frames_of(range(SMALLEST, LARGEST, 11))
    user.forward("5tswap")
    answers = peer.exchange(frames)
    user.stop()
    # Each queue keeps its order, the two together have none.
    assert Counter(answers) == Counter(map(tuple_swapped, frames))
    pairs = stats(host)["queue_pairs"]
    assert sum(pair["rx_packets"] for pair in pairs) >= len(frames)
    for pair in pairs:
        assert pair["rx_packets"] > 10
        assert pair["tx_packets"] > 10


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_virtio_user_as_server_takes_the_worker_that_comes_after_a_killed_one(
    packed, host, peer, plug
):
    """Its packed rings begin anew, as it does not know either where they stood."""
    user = plug("client", VirtioUserConfig(MAC, queue_size=256, packed=packed))
    check_what_testpmd_gives_back(user, peer)
    pid = host.directory / "ovs-vhost" / "vhu0.pid"
    killed = pid.read_text().split()[0]
    os.kill(int(killed), signal.SIGKILL)
    wait_until(
        lambda: pid.exists() and pid.read_text().split()[:1] not in ([], [killed]), "another"
    )
    wait_until(lambda: stats(host).get("status") == "running", "the rings run again", SECONDS)
    check_what_testpmd_gives_back(user, peer)
    check_what_testpmd_sends(user, peer)
