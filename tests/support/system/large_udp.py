# SPDX-License-Identifier: Apache-2.0
"""Large UDP frames and their virtio-net headers."""

import socket
import struct

import dpkt
from support.system.soft_ports import GUEST_MAC, OTHER_MAC

from ovs_vhost_plugin.guest.driver.driver import F_NEEDS_CSUM, GSO_UDP_L4, NetHeader

SOL_PACKET, PACKET_VNET_HDR = 263, 15  # linux/if_packet.h


HEADERS = {4: 14 + 20 + 8, 6: 14 + 40 + 8}


def large(version, size, payload, *, outward, gso=GSO_UDP_L4):
    """A frame of UDP and its header: the checksum is begun with the pseudo header's sum."""
    to, source = (OTHER_MAC, GUEST_MAC) if outward else (GUEST_MAC, OTHER_MAC)
    length = 8 + len(payload)
    if version == 4:
        addresses = socket.inet_aton("10.1.0.1") + socket.inet_aton("10.1.0.2")
        ip = dpkt.ip.IP(id=65_530, p=17, src=addresses[:4], dst=addresses[4:], len=20 + length)
        network, kind = ip.pack_hdr()[:10] + b"\0\0" + addresses, 0x0800
        network = network[:10] + struct.pack("!H", dpkt.in_cksum(network)) + network[12:]
    else:
        addresses = bytes(range(32))
        network, kind = struct.pack("!IHBB", 6 << 28, length, 17, 64) + addresses, 0x86DD
    begun = 0xFFFF - dpkt.in_cksum(addresses + struct.pack("!II", length, 17))
    udp = struct.pack("!HHHH", 1000, 2000, length, begun)
    frame = to + source + struct.pack("!H", kind) + network + udp + payload
    start = 14 + len(network)
    return NetHeader(F_NEEDS_CSUM, gso, start + 8, size, start, 6), frame
