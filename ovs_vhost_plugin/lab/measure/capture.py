# SPDX-License-Identifier: Apache-2.0
"""Captures frames of a device, by a packet socket with the kernel's time stamps.

Nothing runs while frames pass.  The kernel stamps and keeps them, and they are read later, so a
capture does not disturb the timing that it measures.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from dataclasses import dataclass
from types import TracebackType

from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.measure import clock
from ovs_vhost_plugin.lab.process import LabError, wait_until

ETH_P_ALL = 0x0003  # linux/if_ether.h
PACKET_OUTGOING = 4  # linux/if_packet.h
PACKET_STATISTICS = 6
SOL_PACKET = 263
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("qq")
_STATISTICS = struct.Struct("II")  # struct tpacket_stats
_BUFFER = 128 << 20


TCP, UDP = 6, 17  # IANA, Protocol Numbers
VXLAN, GENEVE = 4789, 6081  # IANA, Service Name and Port Number Registry: their UDP ports


@dataclass(frozen=True)
class TcpSegment:
    """A TCP segment: its IPv4 identification, source port and bytes of payload."""

    identification: int
    source: int
    payload: int


@dataclass(frozen=True)
class Frame:
    """A captured frame; `at` is CLOCK_MONOTONIC seconds.

    `outgoing` is the kernel's view: true for frames sent into the device, so on a guest's tap for
    frames to the guest.
    """

    at: float
    outgoing: bool
    data: bytes

    @property
    def ethertype(self) -> int:
        """The type field of the Ethernet header, or of the 802.1Q tag in it."""
        return int.from_bytes(self.data[self._network - 2 : self._network], "big")

    def udp_payload(self, port: int) -> bytes | None:
        """The payload of an IPv4 UDP datagram to `port` (options and fragments aside)."""
        datagram = self._datagram(UDP, port)
        return datagram and datagram[8 : int.from_bytes(datagram[4:6], "big")]

    def tcp_segment(self, port: int) -> TcpSegment | None:
        """The IPv4 TCP segment to `port` with payload (options of IPv4 and fragments aside)."""
        datagram = self._datagram(TCP, port)
        if not datagram:
            return None
        total, identification = struct.unpack_from("!HH", self.data, self._network + 2)
        payload = total - 20 - 4 * (datagram[12] >> 4)
        source = int.from_bytes(datagram[:2], "big")
        return TcpSegment(identification, source, payload) if payload > 0 else None

    @property
    def within(self) -> Frame:
        """The frame that a tunnel's datagram carries (RFC 7348, RFC 8926), else this one."""
        if (carried := self._datagram(UDP, VXLAN)) is not None:
            return Frame(self.at, self.outgoing, carried[16:])
        if (carried := self._datagram(UDP, GENEVE)) is not None:
            return Frame(self.at, self.outgoing, carried[16 + 4 * (carried[8] & 0x3F) :])
        return self

    @property
    def _network(self) -> int:
        """The offset of the Ethernet frame's payload."""
        return 18 if self.data[12:14] in (b"\x81\x00", b"\x88\xa8") else 14

    def _datagram(self, protocol: int, port: int) -> bytes | None:
        """The IPv4 payload of a packet of `protocol` to `port`."""
        packet = self.data[self._network :]
        if self.ethertype != 0x0800 or packet[:1] != b"\x45" or packet[9:10] != bytes([protocol]):
            return None
        return packet[20:] if int.from_bytes(packet[22:24], "big") == port else None


class Capture:
    """Captures both directions of a device from the start of the context.

    `snap` is the most bytes kept of each frame.
    """

    def __init__(self, namespace: Namespace, device: str, *, snap: int = 65536) -> None:
        self._namespace = namespace
        self._device = device
        self._snap = snap
        self._frames: list[Frame] = []
        self._socket = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _BUFFER)

    def __enter__(self) -> Capture:
        _await_stamps(self._namespace)
        # Bound to device and protocols in one call, so that no frame of another device gets in.
        self._socket.bind((self._device, ETH_P_ALL))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def frames(self) -> list[Frame]:
        """All frames so far.  Raises LabError if the kernel had to drop some."""
        offset = clock.from_wall()
        while True:
            try:
                data, control, _, address = self._socket.recvmsg(
                    self._snap, socket.CMSG_SPACE(_TIMESPEC.size), socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENETDOWN:
                    raise
                continue  # the device has gone since; its earlier frames can still be read
            seconds, nanoseconds = _TIMESPEC.unpack(control[0][2])
            at = seconds + nanoseconds / 1e9 + offset
            self._frames.append(Frame(at, address[2] == PACKET_OUTGOING, data))
        statistics = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, _STATISTICS.size)
        if dropped := _STATISTICS.unpack(statistics)[1]:
            raise LabError(f"the capture on {self._device} lost {dropped} frames")
        return self._frames


def _await_stamps(namespace: Namespace) -> None:
    """Return when the kernel stamps frames that it sends, as a socket has asked for.

    The kernel begins some time later (net_enable_timestamp in net/core/dev.c); a frame without a
    stamp gets the time at which it is read.
    """

    def stamped() -> bool:
        probe.send(b"")
        sent = time.time()
        time.sleep(0.001)
        _, control, _, _ = probe.recvmsg(1, socket.CMSG_SPACE(_TIMESPEC.size))
        seconds, nanoseconds = _TIMESPEC.unpack(control[0][2])
        return bool(seconds + nanoseconds / 1e9 <= sent)

    with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        probe.bind(("127.0.0.1", 0))
        probe.connect(probe.getsockname())
        wait_until(stamped, "the kernel's stamps")
