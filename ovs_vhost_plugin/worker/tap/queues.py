# SPDX-License-Identifier: Apache-2.0
"""A worker's end of its tap: carrier, offloads and queues, all by ioctl on fds it inherited.

None of these ioctls needs a privilege once the fd is open, so the worker can drop its privileges.
Source: linux/if_tun.h, Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from ovs_vhost_plugin.vhost.spec import Feature

_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_TUNGETIFF = 0x800454D2
_TUNSETQUEUE = 0x400454D9
_TUNSETCARRIER = 0x400454E2
_IFF_ATTACH_QUEUE = 0x0200
_IFF_DETACH_QUEUE = 0x0400

# Feature that the guest accepts -> work that the kernel may leave undone for it (TUN_F_*).
# GUEST_UFO has none: since 4.14 Linux makes fragments before the tap, whatever TUN_F_UFO asks.
_OFFLOADS = (
    (Feature.GUEST_CSUM, 0x01),
    (Feature.GUEST_TSO4, 0x02),
    (Feature.GUEST_TSO6, 0x04),
    (Feature.GUEST_ECN, 0x08),
    (Feature.GUEST_USO4, 0x20),
    (Feature.GUEST_USO6, 0x40),
)
_TUN_F_CSUM = 0x01
_TUN_F_USO = 0x60  # Linux 6.2; both or none
_IFREQ, _IFNAMSIZ = 40, 16  # bytes of struct ifreq, and of the name at its beginning
LONGEST_QUEUE = 1000  # frames: a tap's txqueuelen
LONGEST_FRAME = 1 << 17  # bytes, with room


def offload_flags(features: int) -> int:
    """TUNSETOFFLOAD flags for the acked virtio-net `features`."""
    flags = sum(flag for bit, flag in _OFFLOADS if features & bit.mask)
    if flags & _TUN_F_USO != _TUN_F_USO:
        flags &= ~_TUN_F_USO
    # The kernel refuses segmentation without checksum offload, as virtio 1.2, 5.1.3.1 does.
    return flags if flags & _TUN_F_CSUM else 0


def name_of(fd: int) -> str:
    """The name of the tap that `fd` is a queue of; "" if it is no tap."""
    try:
        answer = fcntl.ioctl(fd, _TUNGETIFF, bytes(_IFREQ))
    except OSError:
        return ""
    return answer[:_IFNAMSIZ].rstrip(b"\0").decode(errors="replace")


@dataclass(frozen=True, slots=True)
class TapState:
    """How a tap was left by the worker before: see `TapQueues`."""

    attached: tuple[bool, ...]
    carrier: bool
    header_size: int
    takes_uso: bool


class TapQueues:
    """The queues of one multi-queue tap; queue `i` belongs to queue pair `i`."""

    def __init__(self, fds: Sequence[int], before: TapState | None = None) -> None:
        """With `before`, the tap is in use, and stays as it is."""
        self.fds = list(fds)
        # The kernel attaches a queue when it is opened.
        self._attached = [True] * len(self.fds) if before is None else list(before.attached)
        self.carrier = before is not None and before.carrier
        self.takes_uso = self._try_uso() if before is None else before.takes_uso
        """Whether the kernel knows USO, in frames written as well as read (Linux 6.2)."""
        self.header_size = 0 if before is None else before.header_size
        """Bytes of the virtio-net header before each frame read."""

    @property
    def state(self) -> TapState:
        """The tap as it is now."""
        return TapState(tuple(self._attached), self.carrier, self.header_size, self.takes_uso)

    def add(self, fd: int) -> None:
        """Take one more queue, which the daemon has opened."""
        self.fds.append(fd)
        self._attached.append(True)
        # Opening a queue sets the carrier too, to where the daemon had seen it.
        fcntl.ioctl(self.fds[0], _TUNSETCARRIER, struct.pack("=i", self.carrier))

    def set_format(self, header_size: int, features: int) -> None:
        """Set the virtio-net header's size and the offloads of frames read and written."""
        fcntl.ioctl(self.fds[0], _TUNSETVNETHDRSZ, struct.pack("=i", header_size))
        self.header_size = header_size
        flags = offload_flags(features)
        if not self.takes_uso:
            flags &= ~_TUN_F_USO  # the kernel segments before the tap
        fcntl.ioctl(self.fds[0], _TUNSETOFFLOAD, flags)

    def _try_uso(self) -> bool:
        """Whether the kernel takes the USO flags, found by setting them before anybody receives."""
        try:
            fcntl.ioctl(self.fds[0], _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_USO)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        return True

    def set_carrier(self, up: bool) -> None:
        """Tell the switch whether the guest can receive; idempotent."""
        if up != self.carrier:
            fcntl.ioctl(self.fds[0], _TUNSETCARRIER, struct.pack("=i", up))
            self.carrier = up

    def discard(self) -> None:
        """Discard frames that came while nobody could receive them.

        The kernel still queues frames for a moment after the carrier went, and keeps them for
        the next reader, however late: a guest that migrates back would get them.
        """
        for fd in self.fds:
            with suppress(OSError):  # empty, or detached
                for _ in range(LONGEST_QUEUE):
                    os.read(fd, LONGEST_FRAME)

    def set_attached(self, wanted: Sequence[bool]) -> None:
        """Let the kernel steer frames only to the queues that the guest reads.

        Queue 0 stays: without an attached queue the kernel drops every frame of the tap.
        """
        for index, fd in enumerate(self.fds):
            attach = wanted[index] or index == 0
            if attach != self._attached[index]:
                flag = _IFF_ATTACH_QUEUE if attach else _IFF_DETACH_QUEUE
                # struct ifreq: 16 bytes of name, not looked at here, then ifr_flags
                fcntl.ioctl(fd, _TUNSETQUEUE, struct.pack("=16sH22x", b"", flag))
                self._attached[index] = attach
