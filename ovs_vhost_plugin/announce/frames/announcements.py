# SPDX-License-Identifier: Apache-2.0
"""The frames of an announcement, built as the guest's own NIC would send them."""

from __future__ import annotations

import struct

from ovs_vhost_plugin.net.ethernet import ETH_ALEN, check_mac

ETH_ZLEN = 60  # the shortest Ethernet frame without FCS (IEEE 802.3, 4.2.3.3)
ETH_P_RARP = 0x8035
ETH_P_IP = 0x0800
ETH_P_ARP = 0x0806
ETH_P_IPV6 = 0x86DD
ARPHRD_ETHER = 1
ARP_REQUEST = 1  # RFC 826
RARP_REQUEST_REVERSE = 3  # RFC 903
BROADCAST = b"\xff" * ETH_ALEN

_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")  # RFC 826, for Ethernet and IPv4
_IPV6 = struct.Struct("!IHBB16s16s")  # RFC 8200, 3
_ADVERTISEMENT = struct.Struct("!BBHI16sBB6s")  # RFC 4861, 4.4, with the option of 4.6.1
assert _ETHERNET.size == 14
assert _ARP.size == 28
assert _IPV6.size == 40
assert _ADVERTISEMENT.size == 32

ICMPV6 = 58
NEIGHBOR_ADVERTISEMENT = 136
ROUTER_FLAG, OVERRIDE_FLAG = 1 << 31, 1 << 29
TARGET_LINK_LAYER_ADDRESS = 2
ALL_NODES = bytes.fromhex("ff02" + "00" * 13 + "01")  # RFC 4291, 2.7.1
ALL_NODES_MAC = bytes.fromhex("333300000001")  # RFC 2464, 7
HOP_LIMIT = 255  # proves that no router has passed it on (RFC 4861, 7.1.2)


def rarp(mac: bytes) -> bytes:
    """Return the 60-byte reverse-ARP request that QEMU itself announces `mac` with.

    A switch learns where `mac` is from the source address, and no host answers: "request reverse"
    with both protocol addresses zero asks a RARP server for nothing it has. All 60 bytes are set.

    Raises MacError as `check_mac` does.
    """
    check_mac(mac)
    unset = bytes(4)
    request = _ARP.pack(
        ARPHRD_ETHER, ETH_P_IP, ETH_ALEN, 4, RARP_REQUEST_REVERSE, mac, unset, mac, unset
    )
    return (_ETHERNET.pack(BROADCAST, mac, ETH_P_RARP) + request).ljust(ETH_ZLEN, b"\0")


def gratuitous_arp(mac: bytes, ip: bytes) -> bytes:
    """Return the ARP request with which the host `mac` tells its neighbours that it has `ip`.

    The request form, as RFC 5227 (2.3 and 3) wants it and Linux sends it by itself (arp_notify,
    GUEST_ANNOUNCE): some neighbours ignore a reply they did not ask for, and a request for the
    sender's own address updates caches and asks nobody for an answer. The target's hardware
    address is zero, as it is what a request asks for.
    """
    check_mac(mac)
    request = _ARP.pack(
        ARPHRD_ETHER, ETH_P_IP, ETH_ALEN, 4, ARP_REQUEST, mac, ip, bytes(ETH_ALEN), ip
    )
    return (_ETHERNET.pack(BROADCAST, mac, ETH_P_ARP) + request).ljust(ETH_ZLEN, b"\0")


def neighbor_advertisement(mac: bytes, ip: bytes, *, router: bool) -> bytes:
    """Return the unsolicited advertisement of RFC 4861, 7.2.6, from the host `mac` for its `ip`.

    To all nodes, not solicited, with the override flag and the target's link-layer address:
    neighbours that have another address for `ip` replace it. `router` must be what the host itself
    advertises.
    """
    check_mac(mac)
    flags = OVERRIDE_FLAG | (ROUTER_FLAG if router else 0)

    def body(checksum: int) -> bytes:
        return _ADVERTISEMENT.pack(
            *(NEIGHBOR_ADVERTISEMENT, 0, checksum, flags, ip),
            *(TARGET_LINK_LAYER_ADDRESS, 1, mac),  # of one unit of 8 bytes
        )

    # RFC 8200, 8.1: the checksum covers a pseudo-header too
    pseudo = ip + ALL_NODES + struct.pack("!II", _ADVERTISEMENT.size, ICMPV6)
    header = _IPV6.pack(6 << 28, _ADVERTISEMENT.size, ICMPV6, HOP_LIMIT, ip, ALL_NODES)
    message = body(checksum(pseudo + body(0)))
    return _ETHERNET.pack(ALL_NODES_MAC, mac, ETH_P_IPV6) + header + message


def checksum(data: bytes) -> int:
    """RFC 1071, over an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
