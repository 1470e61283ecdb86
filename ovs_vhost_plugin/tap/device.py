# SPDX-License-Identifier: Apache-2.0
"""Ioctls of a tap, through one of its queues, and of an interface, through any socket.

Source: linux/if_tun.h, Documentation/networking/tuntap.rst, netdevice(7), drivers/net/tun.c.
"""

import errno
import fcntl
import os
import socket
import struct

_TUN = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_TUNSETPERSIST = 0x400454CB
_TUNSETOWNER = 0x400454CC
_TUNSETOFFLOAD = 0x400454D0
_TUNSETCARRIER = 0x400454E2
_IFF_TAP = 0x0002
_IFF_NO_CARRIER = 0x0040  # Linux 6.0; earlier kernels ignore it, and TUNSETCARRIER follows
_IFF_MULTI_QUEUE = 0x0100
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFF_TUN_EXCL = 0x8000
_FLAGS = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | _IFF_MULTI_QUEUE

_ROOT = 0

# TUN_F_CSUM, _TSO4, _TSO6, _TSO_ECN; _USO4 and _USO6 since Linux 6.2
_OFFLOADS = 0x0F
_OFFLOADS_WITH_USO = 0x6F

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
IFF_PROMISC = 0x100
IFF_ALLMULTI = 0x200

_IFREQ = struct.Struct("=16sH22x")  # name, flags (short, seen here as unsigned)
assert _IFREQ.size == 40


def make(name: str) -> int:
    """Make a tap in the current network namespace, without carrier; return its first queue.

    The tap goes when the queue is closed. OSError EBUSY when an interface of that name exists.
    """
    return _without_carrier(name, _FLAGS | _IFF_TUN_EXCL)


def open_queue(name: str) -> int:
    """Open one more queue of a tap; this sets the tap's carrier down."""
    return _without_carrier(name, _FLAGS)


def join(name: str, *, carrier: bool) -> int:
    """Open one more queue of a tap in use, keeping its carrier at `carrier`."""
    return _attach(name, _FLAGS | (0 if carrier else _IFF_NO_CARRIER))


def give_to_root(queue: int) -> None:
    """Let only root attach to the tap from now on.

    Anybody who may open /dev/net/tun, that is everybody, may attach to a tap without an owner
    (tun_not_capable).
    """
    fcntl.ioctl(queue, _TUNSETOWNER, _ROOT)


def offer_offloads(queue: int) -> None:
    """Enable on the tap all the offloads that a guest's NIC may take.

    A switch may read the offloads only once, when it opens the tap.
    """
    try:
        fcntl.ioctl(queue, _TUNSETOFFLOAD, _OFFLOADS_WITH_USO)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fcntl.ioctl(queue, _TUNSETOFFLOAD, _OFFLOADS)


def make_persistent(queue: int) -> None:
    """Make the tap outlive its queues."""
    fcntl.ioctl(queue, _TUNSETPERSIST, 1)


def flags(name: str) -> int:
    """The flags of an interface."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, _IFREQ.pack(name.encode(), 0))
    return int(_IFREQ.unpack(answer)[1])


def set_flags(name: str, wanted: int) -> None:
    """Set the flags of an interface."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, _IFREQ.pack(name.encode(), wanted))


def _without_carrier(name: str, how: int) -> int:
    fd = _attach(name, how | _IFF_NO_CARRIER)
    try:
        fcntl.ioctl(fd, _TUNSETCARRIER, struct.pack("=i", 0))
    except OSError:
        os.close(fd)
        raise
    return fd


def _attach(name: str, how: int) -> int:
    fd = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), how))
    except OSError:
        os.close(fd)
        raise
    return fd
