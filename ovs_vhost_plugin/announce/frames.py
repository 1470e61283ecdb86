# SPDX-License-Identifier: Apache-2.0
"""The frames of an announcement, built as the guest's own NIC would send them."""

from __future__ import annotations

import struct
from enum import StrEnum

ETH_ALEN = 6
ETH_ZLEN = 60  # the shortest Ethernet frame without FCS (IEEE 802.3, 4.2.3.3)
ETH_P_RARP = 0x8035
ETH_P_IP = 0x0800
ARPHRD_ETHER = 1
RARP_REQUEST_REVERSE = 3  # RFC 903
BROADCAST = b"\xff" * ETH_ALEN

_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")  # RFC 826, for Ethernet and IPv4
assert _ETHERNET.size == 14
assert _ARP.size == 28


class FrameErrorName(StrEnum):
    """Why no frame can be built."""

    MAC_LENGTH = "mac-length"
    MAC_ZERO = "mac-zero"
    MAC_MULTICAST = "mac-multicast"


class FrameError(ValueError):
    """What was to be announced is no guest's address."""

    def __init__(self, name: FrameErrorName) -> None:
        super().__init__(name.value)
        self.name = name


def check_mac(mac: bytes) -> None:
    """Raise FrameError unless `mac` is the address of one station."""
    if len(mac) != ETH_ALEN:
        raise FrameError(FrameErrorName.MAC_LENGTH)
    if not any(mac):
        raise FrameError(FrameErrorName.MAC_ZERO)
    if mac[0] & 1:
        raise FrameError(FrameErrorName.MAC_MULTICAST)


def rarp(mac: bytes) -> bytes:
    """Return the 60-byte reverse-ARP request that QEMU itself announces `mac` with.

    A switch learns where `mac` is from the source address, and no host answers: "request reverse"
    with both protocol addresses zero asks a RARP server for nothing it has. All 60 bytes are set.

    Raises FrameError as `check_mac` does.
    """
    check_mac(mac)
    unset = bytes(4)
    request = _ARP.pack(
        ARPHRD_ETHER, ETH_P_IP, ETH_ALEN, 4, RARP_REQUEST_REVERSE, mac, unset, mac, unset
    )
    return (_ETHERNET.pack(BROADCAST, mac, ETH_P_RARP) + request).ljust(ETH_ZLEN, b"\0")
