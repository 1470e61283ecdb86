# SPDX-License-Identifier: Apache-2.0
"""Taps, frames and child processes, with the kernel's own numbers: nothing of the product.

Sources: linux/if_tun.h, Documentation/networking/tuntap.rst, linux/virtio_net.h.
"""

import contextlib
import ctypes
import faulthandler
import fcntl
import os
import socket
import struct
import traceback
from collections.abc import Callable
from pathlib import Path

from pyroute2 import IPRoute

from ovs_vhost_plugin.lab.hosts.namespace import Namespace

TUNSETIFF = 0x400454CA
TUNSETPERSIST = 0x400454CB
TUNSETOWNER = 0x400454CC
TUNSETOFFLOAD = 0x400454D0
TUNSETVNETHDRSZ = 0x400454D8
TUNSETQUEUE = 0x400454D9
TUNSETCARRIER = 0x400454E2

IFF_TAP = 0x0002
IFF_NO_CARRIER = 0x0040
IFF_MULTI_QUEUE = 0x0100
IFF_ATTACH_QUEUE = 0x0200
IFF_DETACH_QUEUE = 0x0400
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
IFF_TUN_EXCL = 0x8000

TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_UFO, TUN_F_USO = 0x01, 0x02, 0x04, 0x10, 0x60

CLONE_NEWNET = 0x40000000

NOBODY = 65534
BROADCAST = b"\xff" * 6
GUEST_MAC = bytes.fromhex("525400123456")
PEER_MAC = bytes.fromhex("525400abcdef")

libc = ctypes.CDLL(None, use_errno=True)


class Tap:
    """A queue of a tap in the current network namespace, as whoever has it open sees it."""

    def __init__(self, name: str, flags: int = 0) -> None:
        """Attach to the tap `name`, which is made if there is none; `flags` beside the usual."""
        self.name = name
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(self.fd, TUNSETIFF, _ifreq(name, IFF_TAP | IFF_NO_PI | flags))
        except OSError:
            self.close()
            raise

    def send(self, frame: bytes) -> None:
        """Write a frame, which the host's end of the tap then receives."""
        os.write(self.fd, frame)

    def frames(self, size: int = 1 << 17) -> list[bytes]:
        """All that waits to be read; each frame cut to `size` bytes."""
        frames = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frames.append(os.read(self.fd, size))
        return frames

    def set(self, request: int, value: int) -> None:
        """An ioctl that takes a number."""
        fcntl.ioctl(self.fd, request, value)

    def point(self, request: int, value: int) -> None:
        """An ioctl that takes a pointer to an int."""
        fcntl.ioctl(self.fd, request, struct.pack("=i", value))

    def attach(self, wanted: bool) -> None:
        """Attach or detach this queue of a multi-queue tap."""
        flag = IFF_ATTACH_QUEUE if wanted else IFF_DETACH_QUEUE
        fcntl.ioctl(self.fd, TUNSETQUEUE, _ifreq("", flag))

    def persist(self) -> "Tap":
        """Have the tap stay when its queues are closed; this object."""
        self.set(TUNSETPERSIST, 1)
        return self

    def close(self) -> None:
        """Close the queue."""
        os.close(self.fd)


def _ifreq(name: str, flags: int) -> bytes:
    return struct.pack("=16sH22x", name.encode(), flags)


def up(namespace: Namespace, name: str) -> None:
    """Set an interface up."""
    namespace.run("ip", "link", "set", name, "up")


def has_carrier(name: str) -> bool:
    """Whether an interface of the current namespace has its carrier."""
    with IPRoute() as links:
        (link,) = links.get_links(socket.if_nametoindex(name))
    return bool(link.get_attr("IFLA_CARRIER"))


def takes_frames(name: str) -> bool:
    """Whether the kernel sends into the interface: it looks at the carrier in its own time.

    linkwatch_do_dev in net/core/link_watch.c: within a second when it has gone.
    """
    with IPRoute() as links:
        (link,) = links.get_links(socket.if_nametoindex(name))
    return bool(link.get_attr("IFLA_OPERSTATE") != "DOWN")


class Wire:
    """A packet socket on an interface: what a userspace bridge has of a tap."""

    def __init__(self, name: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setblocking(False)
        self._socket.bind((name, 0x0003))  # ETH_P_ALL

    def send(self, frame: bytes) -> None:
        """Send into the interface, so towards whoever reads the tap."""
        self._socket.send(frame)

    def frames(self) -> list[bytes]:
        """What the interface has received since the last call."""
        frames = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, address = self._socket.recvfrom(1 << 17)
                if address[2] != socket.PACKET_OUTGOING:
                    frames.append(frame)
        return frames

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def frame(
    number: int = 0,
    *,
    source: bytes = GUEST_MAC,
    target: bytes = BROADCAST,
    kind: int = 0x88B5,
    length: int = 60,
) -> bytes:
    """A frame that carries a number, of an EtherType for local experiments (IEEE 802)."""
    return struct.pack("!6s6sHI", target, source, kind, number).ljust(length, b"\0")


def number_of(data: bytes) -> int:
    """The number that a frame carries."""
    return int(struct.unpack_from("!I", data, 14)[0])


def udp(payload: bytes, *, partial: bool = False, length: int | None = None) -> bytes:
    """A UDP datagram from 192.0.2.1:7 to 192.0.2.2:7 in a frame from guest to peer.

    `partial`: with the pseudo header's sum alone in place of its checksum, as drivers leave it.
    """
    data = payload.ljust(length or 0, b"x")
    size = 8 + len(data)
    addresses = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2")
    pseudo = addresses + struct.pack("!BBH", 0, 17, size)
    unsummed = struct.pack("!HHHH", 7, 7, size, 0) + data
    checksum = _fold(pseudo) if partial else 0xFFFF ^ _fold(pseudo + unsummed)
    datagram = struct.pack("!HHHH", 7, 7, size, checksum) + data
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + size, 1, 0, 64, 17, 0) + addresses
    header = header[:10] + struct.pack("!H", 0xFFFF ^ _fold(header)) + header[12:]
    return PEER_MAC + GUEST_MAC + b"\x08\x00" + header + datagram


def tcp(length: int) -> bytes:
    """A TCP segment of so many bytes in a frame from guest to peer, with a partial checksum."""
    addresses = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2")
    size = 20 + length
    pseudo = addresses + struct.pack("!BBH", 0, 6, size)
    segment = struct.pack("!HHIIBBHHH", 7, 7, 1, 1, 0x50, 0x10, 512, _fold(pseudo), 0)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + size, 1, 0, 64, 6, 0) + addresses
    header = header[:10] + struct.pack("!H", 0xFFFF ^ _fold(header)) + header[12:]
    return PEER_MAC + GUEST_MAC + b"\x08\x00" + header + segment + b"x" * length


def checksum_is_right(data: bytes) -> bool:
    """Whether the TCP or UDP checksum of an IPv4 frame without options is right."""
    total, protocol = struct.unpack_from("!H5xB", data, 16)
    transport = data[34 : 14 + total]
    pseudo = data[26:34] + struct.pack("!BBH", 0, protocol, len(transport))
    return _fold(pseudo + transport) == 0xFFFF


def _fold(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def net_header(
    *,
    size: int = 10,
    checksum: tuple[int, int] | None = None,
    gso: tuple[int, int, int] = (0, 0, 0),
) -> bytes:
    """struct virtio_net_hdr: `checksum` is (start, offset), `gso` (type, header bytes, size)."""
    kind, header, most = gso
    start, offset = checksum or (0, 0)
    flags = 1 if checksum else 0  # VIRTIO_NET_HDR_F_NEEDS_CSUM
    return struct.pack("=BBHHHH", flags, kind, header, most, start, offset).ljust(size, b"\0")


def child(deed: Callable[[], object]) -> int:
    """Run `deed` in a process of its own; its exit status, or minus the signal that ended it.

    It exits with 0 when `deed` returns, with the errno of an OSError, and with 255 otherwise.
    """
    pid = os.fork()
    if pid == 0:
        faulthandler.disable()  # what ends it is its parent's to say
        status = 255
        try:
            deed()
            status = 0
        except OSError as error:
            status = error.errno or 255
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def become(uid: int) -> None:
    """Be this user, and no more root."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def call(name: str, *arguments: object) -> int:
    """A function of libc; raises OSError."""
    result = int(getattr(libc, name)(*arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def read_sysctl(path: str) -> str:
    """A setting below /proc/sys, of the current network namespace."""
    return Path("/proc/sys", path).read_text().strip()


def write_sysctl(path: str, value: str) -> None:
    """Write a setting below /proc/sys, of the current network namespace."""
    Path("/proc/sys", path).write_text(value)
