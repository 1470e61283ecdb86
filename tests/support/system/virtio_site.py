# SPDX-License-Identifier: Apache-2.0
"""DPDK's virtio-user on a port of a real bridge, and a peer there that compares what comes back."""

import itertools
import json
import os
import socket
import struct
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import dpkt
import pytest
from support.system.virtio_grid import MAC

from ovs_vhost_plugin.guest.driver.responder import checksum
from ovs_vhost_plugin.lab.guests import virtiouser
from ovs_vhost_plugin.lab.guests.virtiouser import VirtioUser
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.hosts.namespace import Namespace, veth
from ovs_vhost_plugin.lab.measure.capture import Capture
from ovs_vhost_plugin.lab.process import LabError, wait_until

PEER_MAC = "52:54:00:00:00:99"
SMALLEST, LARGEST = 60, 1514
BURST = 32  # frames under way at once: fewer than the smallest ring has buffers
SECONDS = 60.0
_ports = (f"vhu{n}" for n in itertools.count())


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

    def exchange(self, plug, frames):
        """Send frames, a burst at a time; what came back, when as much did."""
        answers = []
        with Capture(self.namespace, "eth0") as capture:
            for start in range(0, len(frames), BURST):
                burst = frames[start : start + BURST]
                for frame in burst:
                    self._socket.send(frame)
                answers += self.collect(plug, capture, start + len(burst))[start:]
        return answers

    def collect(self, plug, capture, count):
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
            plug.fail(error, f"{len(so_far())} came")


def datagram(to, source, size, port):
    """A frame of `size` bytes with UDP and a random payload; `port` gives the flow its hash."""
    payload = os.urandom(size - 42)
    addresses = socket.inet_aton("10.1.0.1"), socket.inet_aton("10.1.0.2")
    ip = struct.pack("!BBHHHBBH", 0x45, 0, size - 14, port, 0, 64, 17, 0) + b"".join(addresses)
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return mac(to) + mac(source) + b"\x08\x00" + ip + udp(port, 9, payload)


def udp(source, destination, payload):
    return struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload


def tuple_swapped(frame):
    """Both MACs, both addresses and both ports, each with the other."""
    ethernet, ip, ports = frame[:14], frame[14:34], frame[34:38]
    swapped = (ethernet[6:12], ethernet[:6], ethernet[12:], ip[:12], ip[16:20], ip[12:16])
    return b"".join((*swapped, ports[2:], ports[:2], frame[38:]))


@dataclass(frozen=True)
class Plugged:
    """A port and the testpmd on it."""

    host: Host
    port: str
    user: VirtioUser

    def told(self):
        """What the daemon published about the port."""
        return self.host.status(self.port)

    def stats(self):
        """The port's statistics, empty while it has none."""
        answer = json.loads(self.host.appctl("vhost/stats", self.port, "--format", "json"))
        return answer["ports"].get(self.port, {})

    @property
    def worker(self):
        """The worker's pid."""
        return self.host.worker_pid(self.port)

    def fail(self, *words):
        """Fail with all that may tell why."""
        run, switch = self.host.namespace.run, self.host.switch
        links = [run("ip", "-s", "link", "show", name) for name in (self.port, "p0")]
        flows = switch.appctl("ovs-vswitchd", "dpctl/dump-flows")
        pytest.fail("\n".join(map(str, (*words, self.stats(), *links, switch.fdb(BRIDGE), flows))))


@contextmanager
def plugged(host, mode, config):
    """A new port, and a testpmd that runs on it."""
    settings = [f"external_ids:vhost-user-queues={config.queues}"]
    if config.mtu > 1500:
        settings.append(f"mtu_request={config.mtu}")
    port = next(_ports)
    with ExitStack() as stack:
        if mode == "client":
            path = host.add_client_port(port, None, *settings)
        else:
            path = host.add_server_port(port, *settings)
        stack.callback(host.delete_port, port)
        host.wait_ofport(port)
        if mode == "client":
            host.wait_ready(port)
        else:
            host.wait_status(port, "listening")
        # A worker in client mode connects, so it is testpmd that listens.
        directory = host.directory / "testpmd"
        user = VirtioUser(host.namespace, directory, path, config, server=mode == "client")
        stack.enter_context(user)
        host.wait_status(port, "running")
        host.wait_carrier(port)
        host.switch.wait_until("Interface", port, "link_state=up")
        yield Plugged(host, port, user)


def check_what_testpmd_sends(plug, peer):
    """Frames of one descriptor and of more: headers right, nothing cut, nothing added."""
    user = plug.user
    burst = virtiouser.BURST // user.config.queues * user.config.queues
    for lengths in ("60", "64,256,512", "1514"):
        size = sum(map(int, lengths.split(",")))
        with Capture(peer.namespace, "eth0") as capture:
            frames = []
            while len(frames) < 2 * burst:
                user.send(lengths)
                frames = peer.collect(plug, capture, len(frames) + burst)
        assert len(frames) == 2 * burst
        for frame in frames:
            assert len(frame) == size
            ethernet = dpkt.ethernet.Ethernet(frame)
            ip = ethernet.data
            assert ethernet.src == mac(MAC)
            assert (ip.len, ip.p, checksum(frame[14:34])) == (size - 14, 17, 0)
            assert socket.inet_ntoa(ip.src) == "198.18.0.1"
            assert socket.inet_ntoa(ip.dst) == "198.18.0.2"
            assert ip.data.ulen == size - 34


def check_what_testpmd_gives_back(plug, peer, count):
    """`count` frames of many sizes go in, through the guest's memory twice, and come out the same.

    Each is a flow of its own, and 5tswap keeps a flow on the queue pair on which it came.
    """
    user = plug.user
    sizes = [*range(SMALLEST, LARGEST, 13), LARGEST, *range(LARGEST, user.config.mtu + 14, 487)]
    frames = [datagram(MAC, PEER_MAC, sizes[n % len(sizes)], 1000 + n) for n in range(count)]
    user.forward("5tswap")
    answers = peer.exchange(plug, frames)
    user.stop()
    expected = [tuple_swapped(frame) for frame in frames]
    if user.config.queues == 1:
        assert answers == expected
    else:
        # Each queue keeps its order, all together have none.
        assert sorted(answers) == sorted(expected)
