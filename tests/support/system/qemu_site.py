# SPDX-License-Identifier: Apache-2.0
"""A private host with our daemon, a peer on a cable to its bridge, and traffic with its guest.

peer: eth0 10.0.0.1 ═ up0 ─ br0 ─ vhu0 ─ worker ─ QEMU: eth0 10.0.0.2
"""

import contextlib
import hashlib
import json
import random
import re
import shutil
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from ovs_vhost_plugin.lab.guests import image
from ovs_vhost_plugin.lab.guests.qemu import GuestConfig, QemuGuest, VhostUser
from ovs_vhost_plugin.lab.hosts.fabric import finish_checksums
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.hosts.namespace import Namespace, scratch_directory, veth
from ovs_vhost_plugin.lab.measure.flow import FlowArrivals, GuestReceiver, record
from ovs_vhost_plugin.lab.platform import versions
from ovs_vhost_plugin.lab.process import PATIENCE, wait_until
from ovs_vhost_plugin.lab.setup import Setup

T = TypeVar("T")

PORT = "vhu0"
PEER, PEER_MAC = "10.0.0.1", "02:00:00:00:00:01"
GUEST, GUEST_MAC = "10.0.0.2", "52:54:00:00:00:02"
LONGEST_FRAME = 1514
MIB = 1 << 20
_TCP_PORT = 5000
_UNDER_WAY = 32768  # bytes; each frame of them takes up to twice its size


def ring_size(asked: int = 256) -> str:
    """How long QEMU makes the rings of a NIC with rx_queue_size=ASKED, as status says it.

    7.2 does as it is told, and 10.0 gives a vhost-user NIC the longest rings that it has.
    """
    return str(asked) if versions.qemu() < (10, 0) else "1024"


class Site(Setup):
    """The host and the peer. Guests are the caller's.

    `userspace_tso`: the datapath takes offloads, and the cable too; else neither does.
    """

    def __init__(self, *, userspace_tso: bool = False, mtu: int = 1500) -> None:
        super().__init__()
        self._offloads = userspace_tso
        self._mtu = mtu
        self._guests = 0

    def _set_up(self) -> None:
        enter = self._closing.enter_context
        self.directory = scratch_directory()
        self._closing.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.peer = enter(Namespace("peer"))
        self.host = enter(Host("host", self.directory / "h", userspace_tso=self._offloads))
        ends = ((self.peer, "eth0"), (self.host.namespace, "up0"))
        veth(self.peer, "eth0", self.host.namespace, "up0")
        for namespace, device in ends:
            namespace.run("ip", "link", "set", device, "mtu", str(self._mtu))
            if not self._offloads:
                finish_checksums(namespace, device)
        self.peer.run("ip", "link", "set", "eth0", "address", PEER_MAC)
        self.peer.address("eth0", f"{PEER}/24")
        self.host.switch.add_port(BRIDGE, "up0")
        self.pin_neighbour()

    def pin_neighbour(self) -> None:
        """Give the peer a static ARP entry: it then never asks."""
        entry = (GUEST, "lladdr", GUEST_MAC, "dev", "eth0", "nud", "permanent")
        self.peer.run("ip", "neigh", "replace", *entry)

    def qemu(
        self,
        path: Path,
        *,
        listen: bool = True,
        queues: int = 1,
        extra: Sequence[str] = (),
        **config: object,
    ):
        """A guest, not started, with the peer's MAC known to it and `config` of GuestConfig."""
        self._guests += 1
        settings = {
            "mac": GUEST_MAC,
            "address": f"{GUEST}/24",
            "neighbours": {PEER: PEER_MAC},
            **config,
        }
        return QemuGuest(
            self.host.namespace,
            self.directory / f"g{self._guests}",
            image.build(),
            VhostUser(path, listen=listen, queues=queues),
            GuestConfig(**settings),
            extra=extra,
        )

    def stats(self, port: str = PORT) -> dict:
        """A port's statistics."""
        text = self.host.appctl("vhost/stats", port, "--format", "json")
        return json.loads(text)["ports"][port]

    def counters(self, pair: int = 0, port: str = PORT) -> dict[str, int]:
        """A queue pair's counters."""
        return self.stats(port)["queue_pairs"][pair]

    def told(self, vrings: int = 2) -> dict[str, str]:
        """What is published of the port once all vrings are set up: it runs with the first."""
        condition = f"external_ids:vhost-user-num-of-vrings={vrings}"
        self.host.switch.wait_until("Interface", PORT, condition)
        return self.host.status(PORT)

    def features(self, port: str = PORT) -> int:
        """What the guest has acknowledged."""
        return int(self.host.status(port)["features"], 16)

    def worker(self, port: str = PORT) -> int:
        """The pid of a port's worker."""
        return self.host.worker_pid(port)

    def ping(self, size: int, *, count: int = 3, guest: str = GUEST) -> None:
        """Ping the guest with `size` bytes of payload, which ping compares with what it sent.

        Until `count` answers are there: an emulated guest may take too long for one.
        """
        flags = ("-M", "do", "-s", str(size), "-i", "0.01")
        output = self.peer.ping(guest, *flags, count=count)
        assert "wrong data" not in output, output

    def udp(
        self,
        guest: QemuGuest,
        port: int,
        *,
        size: int,
        count: int = 200,
        to: str = GUEST,
    ) -> None:
        """Numbered datagrams of `size` bytes to the guest, which sends each back: all whole.

        `size` divides 16384, the most that the guest's netcat sends back at once. No more are under
        way than fit the packet sockets of a switch that is held up.
        """
        GuestReceiver(guest, port, echo=True)
        with self.peer.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((to, port))
            sock.settimeout(PATIENCE)
            sent, echoed = 0, list[int]()
            while len(echoed) < count:
                while sent < count and (sent - len(echoed)) * size < _UNDER_WAY:
                    sock.send(record(port, sent, size))
                    sent += 1
                arrivals = FlowArrivals.parse(port, sock.recv(65536), size)
                assert arrivals.damaged == 0
                echoed += arrivals.numbers
        assert sorted(echoed) == list(range(count))

    def tcp(
        self,
        guest: QemuGuest,
        size: int,
        *,
        guest_listens: bool = False,
        peer: str = PEER,
    ) -> None:
        """`size` random bytes each way at once over one TCP connection; compared by SHA-256.

        `peer` is the address to which a guest that does not listen connects.
        """
        guest.run(f"rm -f /tmp/in; head -c {size} /dev/urandom >/tmp/out", seconds=60)
        mine = random.Random(size).randbytes(size)
        sock = self.peer.socket(socket.AF_INET, socket.SOCK_STREAM)
        with sock, contextlib.ExitStack() as closing:
            sock.settimeout(60)
            if guest_listens:
                listen = f"nc.openbsd -N -l {_TCP_PORT}"
                guest.run(f"{listen} </tmp/out >/tmp/in & echo $! >/tmp/nc")
                state = f":{_TCP_PORT:04X} 00000000:0000 0A "  # TCP_LISTEN
                guest.run(f"until grep -q '{state}' /proc/net/tcp; do usleep 9999; done")
                sock.connect((GUEST, _TCP_PORT))
                connected = sock
            else:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((peer, _TCP_PORT))
                sock.listen(1)
                connect = f"nc.openbsd -v -N {peer} {_TCP_PORT}"
                guest.run(f"{connect} </tmp/out >/tmp/in 2>/tmp/error & echo $! >/tmp/nc")
                connected = closing.enter_context(self._accept(sock, guest))
            theirs = _duplex(connected, mine)
        guest.run("while kill -0 $(cat /tmp/nc) 2>/dev/null; do usleep 9999; done", seconds=60)
        sums = guest.run("sha256sum /tmp/in /tmp/out", seconds=60)
        received, sent = re.findall(r"[0-9a-f]{64}", sums)
        assert len(theirs) == size
        assert sent == hashlib.sha256(theirs).hexdigest(), "from the guest"
        assert received == hashlib.sha256(mine).hexdigest(), "to the guest"

    def _accept(self, listener: socket.socket, guest: QemuGuest) -> socket.socket:
        """The guest's connection; if there is none, all that tells why."""
        try:
            listener.settimeout(PATIENCE)
            connected = listener.accept()[0]
        except TimeoutError:
            asked = "cat /tmp/error /proc/net/tcp; arp -an; ip -s link show eth0"
            said = guest.run(f"{asked}; grep virtio /proc/interrupts", check=False)
            switch = self.host.switch
            flows = switch.appctl("ovs-vswitchd", "dpctl/dump-flows")
            seen = ("the guest does not connect", said, self.stats(), switch.fdb(BRIDGE), flows)
            pytest.fail("\n".join(map(str, seen)))
        connected.settimeout(60)
        return connected


def settled(read: Callable[[], T]) -> T:
    """What `read` says once it says the same twice, a fifth of a second apart."""
    readings = [read()]

    def same() -> bool:
        readings.append(read())
        return readings[-2] == readings[-1]

    wait_until(same, "what is read to settle", poll=0.2)
    return readings[-1]


def _duplex(sock: socket.socket, data: bytes) -> bytes:
    """Send all and receive all, at once. The guest's netcat ends its own sending first: it drops
    what it has to send when the other end is done before it."""

    def send() -> None:
        with contextlib.suppress(OSError):  # the receiver then sees what is missing
            sock.sendall(data)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        received = bytearray()
        while piece := sock.recv(1 << 18):
            received += piece
    finally:
        sender.join()
    return bytes(received)


@dataclass
class Checksums:
    """What an IPv4 frame says of itself and what is true."""

    wrong: list[str]
    checked: int
    longest: int


def check_frames(frames: list[bytes]) -> Checksums:
    """Verify the IPv4, TCP and UDP checksums of frames (RFC 1071: a whole one sums up to 0)."""
    result = Checksums([], 0, 0)
    for number, frame in enumerate(frames):
        result.longest = max(result.longest, len(frame))
        if frame[12:14] != b"\x08\x00":
            continue
        header = 14 + 4 * (frame[14] & 15)
        end = 14 + int.from_bytes(frame[16:18], "big")
        if _sum(frame[14:header]) != 0xFFFF:
            result.wrong.append(f"frame {number}: IPv4")
        fragment = int.from_bytes(frame[20:22], "big") & 0x3FFF
        protocol = frame[23]
        if fragment or protocol not in (6, 17):
            continue
        body = frame[header:end]
        result.checked += 1
        pseudo = frame[26:34] + bytes([0, protocol]) + len(body).to_bytes(2, "big")
        none = protocol == 17 and body[6:8] == b"\0\0"
        if len(frame) < end or none or _sum(pseudo + body) != 0xFFFF:
            result.wrong.append(f"frame {number}: protocol {protocol}, {len(frame)} bytes")
    return result


def _sum(data: bytes) -> int:
    """The one's complement sum of 16-bit words: 65536 is 1 modulo 65535."""
    if len(data) % 2:
        data += b"\0"
    # A number is congruent to the sum of its digits; 0 only comes of zeros.
    return int.from_bytes(data, "big") % 0xFFFF or (0xFFFF if any(data) else 0)
