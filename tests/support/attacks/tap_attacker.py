# SPDX-License-Identifier: Apache-2.0
"""Who attacks taps: a local user who attaches to them, and a guest by the frames it sends."""

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

from support.attacks.stranger import become

from ovs_vhost_plugin.guest.driver.responder import checksum

NOBODY = 65534
BROADCAST = b"\xff" * 6
GUEST_MAC = bytes.fromhex("525400000001")

_TUNSETIFF = 0x400454CA
TUNSETOWNER = 0x400454CC
_TUNSETCARRIER = 0x400454E2
_TUNGETVNETHDRSZ = 0x800454D7
_TAP = 0x0002 | 0x0100 | 0x1000 | 0x4000  # multi-queue, no packet information, vnet header
_UDP = 17


def attach(name: str) -> int:
    """One more queue of a tap in this namespace, as whoever calls."""
    queue = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(queue, _TUNSETIFF, struct.pack("=16sH22x", name.encode(), _TAP))
    except OSError:
        os.close(queue)
        raise
    return queue


def write(queue: int, frame: bytes) -> None:
    """Send a frame as the guest on this tap."""
    size = struct.unpack("=i", fcntl.ioctl(queue, _TUNGETVNETHDRSZ, bytes(4)))[0]
    os.write(queue, bytes(size) + frame.ljust(60, b"\0"))


def set_carrier(queue: int) -> None:
    """Have the kernel let frames into the tap."""
    fcntl.ioctl(queue, _TUNSETCARRIER, struct.pack("=i", 1))


def outcome_as(uid: int, deed: Callable[[], Any]) -> int:
    """The errno with which `deed` fails for a real process of this user; 0 when it succeeds."""
    pid = os.fork()
    if pid == 0:
        result = 255
        try:
            become(uid)
            deed()
            result = 0
        except OSError as error:
            result = error.errno or 255
        finally:
            os._exit(result)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def attach_as(host: Any, uid: int, name: str) -> int:
    """The errno with which a user fails to attach to a tap of a host; 0: it is attached."""
    with host.namespace.entered():
        return outcome_as(uid, lambda: attach(name))


@contextlib.contextmanager
def racing(host: Any, uid: int, name: str) -> Iterator[Callable[[], bool]]:
    """A user who tries to attach without pause; what is yielded tells whether it did, and ends it.

    It ends by itself, as well, when the test's process does.
    """
    ours, theirs = socket.socketpair()
    with host.namespace.entered():
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                ours.close()
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                theirs.setblocking(False)
                _race(theirs, name)
            os._exit(0)
    theirs.close()
    try:

        def ended() -> bool:
            ours.shutdown(socket.SHUT_WR)
            return bool(ours.recv(1))

        yield ended
    finally:
        ours.close()
        os.waitpid(pid, 0)


def _race(channel: socket.socket, name: str) -> None:
    while True:
        with contextlib.suppress(OSError):
            attach(name)
            channel.send(b"!")
            return
        with contextlib.suppress(BlockingIOError):
            if not channel.recv(1):
                return


def arp_request(target: str, sender: str) -> bytes:
    """Who has `target`?"""
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    asked = GUEST_MAC + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(target)
    return BROADCAST + GUEST_MAC + b"\x08\x06" + head + asked


def ipv4(to_mac: bytes, sender: str, target: str, protocol: int, payload: bytes) -> bytes:
    """An IPv4 packet in a frame of the guest's."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    head += socket.inet_aton(sender) + socket.inet_aton(target)
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return to_mac + GUEST_MAC + b"\x08\x00" + head + payload


def udp(to_mac: bytes, sender: str, target: str, port: int) -> bytes:
    """A datagram; without a checksum, which IPv4 allows."""
    return ipv4(to_mac, sender, target, _UDP, struct.pack("!HHHH", 68, port, 12, 0) + b"evil")


def ping(to_mac: bytes, sender: str, target: str) -> bytes:
    """An ICMP echo request."""
    head = struct.pack("!BBHHH", 8, 0, 0, 1, 1)
    head = head[:2] + struct.pack("!H", checksum(head)) + head[4:]
    return ipv4(to_mac, sender, target, 1, head)


def neighbour_solicitation(to_mac: bytes) -> bytes:
    """IPv6 for all nodes on the link; what is in it is of no account, as it is counted before."""
    source, to = (socket.inet_pton(socket.AF_INET6, a) for a in ("fe80::2", "ff02::1"))
    head = struct.pack("!IHBB", 6 << 28, 8, 58, 255) + source + to
    return to_mac + GUEST_MAC + b"\x86\xdd" + head + struct.pack("!BBHHH", 128, 0, 0, 1, 1)
