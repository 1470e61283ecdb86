# SPDX-License-Identifier: Apache-2.0
"""The tap of a guest: the NIC that Linux's own network stack has in the guest's namespace.

Unlike a port's tap it belongs to the guest's side: what the stack sends, the driver reads, and the
other way round. Source: linux/if_tun.h, Documentation/networking/tuntap.rst, netdevice(7).
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import Protocol

from ovs_vhost_plugin.vhost.spec import Feature

_TUN = "/dev/net/tun"
_TUNSETIFF, _TUNSETOFFLOAD, _TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_IFF_MULTI_QUEUE, _IFF_TUN_EXCL = 0x0100, 0x8000
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_SIOCSIFHWADDR, _SIOCSIFMTU, _SIOCSIFTXQLEN = 0x8924, 0x8922, 0x8943
_IFF_UP = 0x1
_ARPHRD_ETHER = 1
_REQUEST = struct.Struct("=16s24s")  # struct ifreq

_OFFLOADS = (  # TUN_F_*
    (Feature.CSUM, 0x01),
    (Feature.HOST_TSO4, 0x02),
    (Feature.HOST_TSO6, 0x04),
    (Feature.HOST_ECN, 0x08),
)
_HEADER_BYTES = 12
_QUEUE = 10_000
"""Frames that wait in the tap while the guest migrates (txqueuelen); the kernel's own is 1,000."""


class NetworkStack(Protocol):
    """A network stack's end, of which the driver has the other one."""

    fds: list[int]
    """One a queue; each gives and takes one frame with its header at a time, non-blocking."""

    def set_offloads(self, features: int) -> None:
        """Let the stack send unfinished checksums and large segments, as negotiated."""

    def send(self, frame: bytes) -> None:
        """Send a frame as the guest's stack does: the driver reads it."""


class StackTap:
    """A tap in the calling thread's network namespace; it goes when this is closed."""

    def __init__(self, name: str, mac: bytes, mtu: int = 1500, queues: int = 1) -> None:
        """Make it and bring it up. Raises OSError, EBUSY where there is such a tap in use."""
        self.name = name
        self.fds: list[int] = []
        self._wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        try:
            self._open_queues(queues)
            wire = self._wire.fileno()
            self._ask(wire, _SIOCSIFHWADDR, struct.pack("=H6s", _ARPHRD_ETHER, mac))
            self._ask(wire, _SIOCSIFMTU, struct.pack("=i", mtu))
            self._ask(wire, _SIOCSIFTXQLEN, struct.pack("=i", _QUEUE))
            (flags,) = struct.unpack_from("=H", self._ask(wire, _SIOCGIFFLAGS), 16)
            self._ask(wire, _SIOCSIFFLAGS, struct.pack("=H", flags | _IFF_UP))
            self._wire.bind((name, 0))
        except OSError:
            self.close()
            raise

    def set_offloads(self, features: int) -> None:
        """As NetworkStack."""
        offloads = sum(value for feature, value in _OFFLOADS if features & feature.mask)
        fcntl.ioctl(self.fds[0], _TUNSETOFFLOAD, offloads)

    def send(self, frame: bytes) -> None:
        """As NetworkStack."""
        self._wire.send(frame)

    def close(self) -> None:
        """Close the tap, which goes."""
        self._wire.close()
        while self.fds:
            os.close(self.fds.pop())

    def _open_queues(self, queues: int) -> None:
        """Open the tap once for each queue; the first of several must find none of the name."""
        several = _IFF_MULTI_QUEUE if queues > 1 else 0
        for queue in range(queues):
            fd = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            self.fds.append(fd)
            alone = _IFF_TUN_EXCL if several and queue == 0 else 0
            how = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | several | alone
            self._ask(fd, _TUNSETIFF, struct.pack("=H", how))
            fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("=i", _HEADER_BYTES))

    def _ask(self, fd: int, request: int, value: bytes = b"") -> bytes:
        return fcntl.ioctl(fd, request, _REQUEST.pack(self.name.encode(), value))
