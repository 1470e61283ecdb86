# SPDX-License-Identifier: Apache-2.0
"""Offloads: a virtio-net header is checked, and its work is done where the bridge cannot do it.

A driver may hand over a frame whose checksum is only begun, or one of up to 64 KiB that is to
become several (virtio 1.2, 5.1.6.2). All of this works on private copies, and uses only parts of
the header that were checked. Everything in the header is little-endian, everything in a frame
big-endian.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import (
    FRAME_MAX,
    HEADER_MAX,
    NET_STATE_T,
    U8_T,
    Records,
    boolean,
    int64,
    void,
)
from ovs_vhost_plugin.jit.result import failure

Bytes = NDArray[np.uint8]

# struct virtio_net_hdr (5.1.6.1): flags and gso_type are bytes, then four le16
_FLAGS, _GSO_TYPE, _HDR_LEN, _GSO_SIZE, _CSUM_START, _CSUM_OFFSET, _NUM_BUFFERS = (
    0, 1, 2, 4, 6, 8, 10,
)  # fmt: skip
_NEEDS_CSUM = 1
_GSO_TCPV4, _GSO_UDP, _GSO_TCPV6, _GSO_UDP_L4, _GSO_ECN = 1, 3, 4, 5, 0x80
_GSO_TYPES = 6
_ETHERNET = 14
IPV4, IPV6, _VLAN, _QINQ = 0x0800, 0x86DD, 0x8100, 0x88A8
_TCP, UDP, HOP_BY_HOP, _DESTINATION_OPTIONS = 6, 17, 0, 60
_TCP_FIN_PSH, _TCP_CWR = 0x09, 0x80
# Linux never segments finer (TCP_MIN_GSO_SIZE), and keeps the largest number for itself
# (GSO_BY_FRAGS). A finer one asks for tens of thousands of segments out of one frame.
_GSO_SIZE_MIN, _GSO_SIZE_MAX = 8, 0xFFFE
# Linux refuses a USO frame of more (UDP_MAX_SEGMENTS; 128 from 6.9 on), and its driver makes none.
_TAP_SEGMENTS = 64


@kernel(int64(U8_T, int64))
def le16(header: Bytes, at: int) -> int:
    """The le16 at `at`."""
    return int64(header[at]) | int64(header[at + 1]) << 8


@kernel(int64(U8_T, int64))
def be16(frame: Bytes, at: int) -> int:
    """The be16 at `at`."""
    return int64(frame[at]) << 8 | int64(frame[at + 1])


@kernel(void(U8_T, int64, int64))
def put_be16(frame: Bytes, at: int, value: int) -> None:
    """Put a be16 at `at`, modulo 65536."""
    frame[at] = value >> 8 & 0xFF
    frame[at + 1] = value & 0xFF


@kernel(int64(U8_T, int64, int64))
def sum_be16(frame: Bytes, start: int, end: int) -> int:
    """The sum of the be16 in [start, end), an odd last byte padded by 0 (RFC 1071)."""
    total = int64(0)
    for at in range(start, end - 1, 2):
        total += int64(frame[at]) << 8 | int64(frame[at + 1])
    if (end - start) & 1:
        total += int64(frame[end - 1]) << 8
    return total


@kernel(int64(int64))
def fold(total: int) -> int:
    """The one's complement of the one's complement sum."""
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@kernel(boolean(U8_T))
def is_gso(header: Bytes) -> bool:
    """Whether the frame is to be segmented."""
    return bool(header[_GSO_TYPE] != 0)


@kernel(boolean(U8_T))
def is_ufo(header: Bytes) -> bool:
    """Whether the frame is a UDP datagram that becomes IP fragments, see fragment.py."""
    return bool(header[_GSO_TYPE] == _GSO_UDP)


@kernel(boolean(U8_T, int64, NET_STATE_T))
def must_finish(header: Bytes, length: int, net: Records) -> bool:
    """Whether the work that the header leaves is done here, for a frame of `length` bytes."""
    if net[0]["cfg_finish_offloads"]:
        return True
    kind = header[_GSO_TYPE]
    if kind not in (_GSO_UDP, _GSO_UDP_L4):
        return False
    if net[0]["cfg_finish_udp"]:
        return True
    payload = length - le16(header, _CSUM_START) - 8
    return bool(kind == _GSO_UDP_L4 and payload > _TAP_SEGMENTS * le16(header, _GSO_SIZE))


@kernel(int64(U8_T))
def gso_size(header: Bytes) -> int:
    """Payload bytes of a segment."""
    return le16(header, _GSO_SIZE)


@kernel(boolean(U8_T))
def leaves_work(header: Bytes) -> bool:
    """Whether the header leaves work: a checksum, or segments."""
    return bool(header[_FLAGS] != 0 or header[_GSO_TYPE] != 0)


@kernel(int64(U8_T, int64, NET_STATE_T))
def check_header(header: Bytes, length: int, net: Records) -> int:
    """Check a private header against its frame of `length` bytes: 0, or a fault.

    Clears the fields that were not negotiated or mean nothing in this direction: a device ignores
    flags that it does not know (5.1.6.2.2).
    """
    if length < _ETHERNET:
        return failure(Fault.FRAME_TOO_SHORT)
    if length > FRAME_MAX:
        return failure(Fault.FRAME_TOO_LONG)
    header[_FLAGS] &= _NEEDS_CSUM
    if net[0]["cfg_header_size"] > _NUM_BUFFERS:
        header[_NUM_BUFFERS] = 0
        header[_NUM_BUFFERS + 1] = 0
    if header[_FLAGS]:
        if not net[0]["cfg_csum"]:
            return failure(Fault.CSUM_NOT_NEGOTIATED)
        if le16(header, _CSUM_START) + le16(header, _CSUM_OFFSET) + 2 > length:
            return failure(Fault.CSUM_OUTSIDE_FRAME)
    gso_type = int64(header[_GSO_TYPE]) & ~_GSO_ECN
    if gso_type == 0:
        for at in range(_GSO_TYPE, _CSUM_START):
            header[at] = 0
        return 0
    udp = gso_type in (_GSO_UDP, _GSO_UDP_L4)
    if gso_type >= _GSO_TYPES or (udp and header[_GSO_TYPE] & _GSO_ECN):
        return failure(Fault.GSO_UNKNOWN)  # ECN is of TCP (5.1.6.2)
    if net[0]["cfg_gso_types"] >> gso_type & 1 == 0:
        return failure(Fault.GSO_NOT_NEGOTIATED)
    if header[_GSO_TYPE] & _GSO_ECN and not net[0]["cfg_ecn"]:
        return failure(Fault.GSO_NOT_NEGOTIATED)
    if not header[_FLAGS]:
        return failure(Fault.GSO_WITHOUT_CSUM)
    if not _GSO_SIZE_MIN <= le16(header, _GSO_SIZE) <= _GSO_SIZE_MAX:
        return failure(Fault.GSO_SIZE)
    if le16(header, _HDR_LEN) > length:
        return failure(Fault.HEADER_LENGTH_BEYOND_FRAME)
    return 0


@kernel(void(U8_T, U8_T, int64))
def finish_checksum(header: Bytes, frame: Bytes, length: int) -> None:
    """Complete a checksum that the driver began with the pseudo header's sum (5.1.6.2)."""
    start = le16(header, _CSUM_START)
    checksum = fold(sum_be16(frame, start, length))
    # 0 means "none" in UDP (RFC 768), and is the same number as 0xffff elsewhere.
    put_be16(frame, start + le16(header, _CSUM_OFFSET), 0xFFFF if checksum == 0 else checksum)


@kernel(int64(U8_T, int64))
def network_header(frame: Bytes, length: int) -> int:
    """Offset of the network header, behind up to two VLAN tags, or a fault."""
    at = _ETHERNET
    for _ in range(2):
        if at <= length and (be16(frame, at - 2) == _VLAN or be16(frame, at - 2) == _QINQ):
            at += 4
    return at if at < length else failure(Fault.GSO_HEADERS)


@kernel(boolean(U8_T, int64, int64, int64))
def _reaches_transport(frame: Bytes, network: int, transport: int, protocol: int) -> bool:
    """Whether the headers from `network` on end at `transport` and announce `protocol` there."""
    if be16(frame, network - 2) == IPV4:
        if transport < network + 20:
            return False
        fragment = be16(frame, network + 6) & 0x3FFF  # RFC 791: MF and offset
        header_length = (int64(frame[network]) & 0xF) * 4
        right = int64(frame[network + 9]) == protocol and fragment == 0
        return right and network + header_length == transport
    if transport < network + 40:
        return False
    following = int64(frame[network + 6])
    at = network + 40
    # RFC 8200, 4.3 and 4.6: next header, length in units of 8 bytes beyond the first
    while at < transport and following in (HOP_BY_HOP, _DESTINATION_OPTIONS):
        following = int64(frame[at])
        at += 8 * (1 + int64(frame[at + 1]))
    return at == transport and following == protocol


@kernel(int64(U8_T, U8_T, int64))
def transport_header(header: Bytes, frame: Bytes, length: int) -> int:
    """Offset of the header that gso_type names, or a fault; at least 8 bytes of it are there."""
    network = network_header(frame, length)
    transport = le16(header, _CSUM_START)
    if network < 0 or transport + 8 > length:
        return failure(Fault.GSO_HEADERS)
    kind = int64(header[_GSO_TYPE]) & ~_GSO_ECN
    ethertype = be16(frame, network - 2)
    ipv4, ipv6 = ethertype == IPV4, ethertype == IPV6
    right = (ipv4 and kind != _GSO_TCPV6) or (ipv6 and kind != _GSO_TCPV4)
    protocol = UDP if kind in (_GSO_UDP, _GSO_UDP_L4) else _TCP
    if not right or not _reaches_transport(frame, network, transport, protocol):
        return failure(Fault.GSO_HEADERS)
    return transport


@kernel(int64(U8_T, U8_T, int64))
def all_headers(header: Bytes, frame: Bytes, length: int) -> int:
    """Bytes of all headers of a frame to be segmented, or a fault: it is not of its gso_type."""
    transport = transport_header(header, frame, length)
    if transport < 0:
        return transport
    if header[_GSO_TYPE] == _GSO_UDP_L4:
        return transport + 8
    if transport + 20 > length:
        return failure(Fault.GSO_HEADERS)
    data = (int64(frame[transport + 12]) >> 4) * 4
    if data < 20 or transport + data > length:
        return failure(Fault.GSO_HEADERS)
    return transport + data


@kernel(void(U8_T, int64, int64, boolean))
def _fix_tcp(out: Bytes, transport: int, position: int, last: bool) -> None:
    """Fix the sequence number and flags of a segment, which it has from the whole."""
    sequence = (be16(out, transport + 4) << 16) + be16(out, transport + 6) + position
    put_be16(out, transport + 4, sequence >> 16)
    put_be16(out, transport + 6, sequence)
    if not last:
        out[transport + 13] &= 0xFF & ~_TCP_FIN_PSH
    if position > 0:
        # RFC 3168, 6.1.2: CWR answers one congestion, so it is sent once
        out[transport + 13] &= 0xFF & ~_TCP_CWR


@kernel(int64(U8_T, U8_T, int64, int64, int64, U8_T))
def make_gso_segment(
    header: Bytes, frame: Bytes, headers: int, payload: int, position: int, out: Bytes
) -> int:
    """Make the segment of the payload at `position`, into `out` from HEADER_MAX on: its bytes."""
    size = min(le16(header, _GSO_SIZE), payload - position)
    for i in range(headers):
        out[HEADER_MAX + i] = frame[i]
    for i in range(size):
        out[HEADER_MAX + headers + i] = frame[headers + position + i]
    network = HEADER_MAX + network_header(frame, headers)
    transport = HEADER_MAX + le16(header, _CSUM_START)
    end = HEADER_MAX + headers + size
    index = position // le16(header, _GSO_SIZE)
    if be16(out, network - 2) == IPV4:
        put_be16(out, network + 2, end - network)
        put_be16(out, network + 4, be16(out, network + 4) + index)
        put_be16(out, network + 10, 0)
        put_be16(out, network + 10, fold(sum_be16(out, network, transport)))
        addresses = sum_be16(out, network + 12, network + 20)
    else:
        put_be16(out, network + 4, end - network - 40)
        addresses = sum_be16(out, network + 8, network + 40)
    if int64(header[_GSO_TYPE]) == _GSO_UDP_L4:
        protocol = UDP
        checksum_at = transport + 6
        put_be16(out, transport + 4, end - transport)
    else:
        protocol = _TCP
        checksum_at = transport + 16
        _fix_tcp(out, transport, position, position + size == payload)
    put_be16(out, checksum_at, 0)
    # The pseudo header: addresses, length, protocol (RFC 9293, 3.1; RFC 768; RFC 8200, 8.1)
    checksum = fold(addresses + end - transport + protocol + sum_be16(out, transport, end))
    put_be16(out, checksum_at, 0xFFFF if checksum == 0 and protocol == UDP else checksum)
    return end - HEADER_MAX
