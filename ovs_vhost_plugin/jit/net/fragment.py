# SPDX-License-Identifier: Apache-2.0
"""A UDP datagram that is too large for the wire, cut into IP fragments (UFO, virtio 1.2, 5.1.6.2).

A fragment carries gso_size bytes of the IP payload, the UDP header included, as Linux has it at
both ends. All but the last carry a multiple of 8 bytes, because offsets count in such units. Like
`offload.py`, this works on a private copy whose virtio-net header was checked.
"""

from __future__ import annotations

from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import FRAGMENT_HEADER, HEADER_MAX, U8_T, int64, void
from ovs_vhost_plugin.jit.net.offload import (
    HOP_BY_HOP,
    IPV4,
    UDP,
    Bytes,
    be16,
    fold,
    gso_size,
    network_header,
    put_be16,
    sum_be16,
    transport_header,
)
from ovs_vhost_plugin.jit.result import failure

_IP_MAX = 0xFFFF  # bytes of an IPv4 packet (RFC 791, 3.1)
_MORE_V4, _MORE_V6 = 0x2000, 1  # RFC 791, 3.1; RFC 8200, 4.5
_FRAGMENT = 44
_OPTION_END, _OPTION_NONE, _OPTION_COPIED = 0, 1, 0x80


@kernel(void(U8_T, int64, int64, int64, int64))
def _finish_checksum(
    frame: Bytes, addresses: int, addresses_end: int, transport: int, length: int
) -> None:
    """Write length and checksum of the whole datagram: fragments have none (RFC 768)."""
    datagram = length - transport
    put_be16(frame, transport + 4, datagram)
    put_be16(frame, transport + 6, 0)
    pseudo = sum_be16(frame, addresses, addresses_end) + datagram + UDP
    checksum = fold(pseudo + sum_be16(frame, transport, length))
    put_be16(frame, transport + 6, 0xFFFF if checksum == 0 else checksum)


@kernel(int64(U8_T, U8_T, int64))
def begin(header: Bytes, frame: Bytes, length: int) -> int:
    """Finish the datagram: bytes of the headers that each fragment repeats, or a fault.

    All headers of IPv4; of IPv6 those up to a hop-by-hop header. There the part that is not
    fragmented ends (RFC 8200, 4.5), as frames with a routing header are refused.
    """
    transport = transport_header(header, frame, length)
    if transport < 0:
        return transport
    network = network_header(frame, length)
    if be16(frame, network - 2) == IPV4:
        if length - network > _IP_MAX:  # no receiver could reassemble it
            return failure(Fault.FRAME_TOO_LONG)
        _finish_checksum(frame, network + 12, network + 20, transport, length)
        return transport
    _finish_checksum(frame, network + 8, network + 40, transport, length)
    end = network + 40
    if frame[network + 6] == HOP_BY_HOP:
        end += 8 * (1 + int64(frame[end + 1]))
    return end


@kernel(int64(U8_T, int64))
def step(header: Bytes, payload: int) -> int:
    """Bytes of payload in each fragment but the last; all of it where it need not be cut."""
    size = gso_size(header)
    return payload if payload <= size else size & ~7


@kernel(void(U8_T, int64, int64))
def _drop_options(out: Bytes, at: int, end: int) -> None:
    """Blank the options in [at, end) that only the first fragment has (RFC 791, 3.1)."""
    while at + 1 < end and out[at] != _OPTION_END:
        length = int64(1) if out[at] == _OPTION_NONE else max(2, int64(out[at + 1]))
        if at + length > end:
            return
        if not out[at] & _OPTION_COPIED:
            for i in range(at, at + length):
                out[i] = _OPTION_NONE
        at += length


@kernel(void(U8_T, int64, int64, int64, int64, int64))
def _finish_v4(
    out: Bytes, network: int, transport: int, end: int, position: int, fragment: int
) -> None:
    """Finish the header of an IPv4 fragment; all have the identification that the guest gave.

    `fragment`: offset and MF; -1: it is whole. DF is cleared, as Linux does: the guest asked for
    fragments.
    """
    if position > 0:
        _drop_options(out, network + 20, transport)
    if fragment >= 0:
        put_be16(out, network + 6, fragment)
    put_be16(out, network + 2, end - network)
    put_be16(out, network + 10, 0)
    put_be16(out, network + 10, fold(sum_be16(out, network, transport)))


@kernel(void(U8_T, int64, int64, int64, int64))
def _insert_header(out: Bytes, network: int, at: int, fragment: int, identification: int) -> None:
    """Insert IPv6's fragment header at `at`, behind all that is not fragmented (RFC 8200, 4.5)."""
    before = network + 6 if at == network + 40 else network + 40
    out[at] = out[before]
    out[at + 1] = 0
    out[before] = _FRAGMENT
    put_be16(out, at + 2, fragment)
    put_be16(out, at + 4, identification >> 16)
    put_be16(out, at + 6, identification)


@kernel(int64(U8_T, U8_T, int64, int64, int64, int64, U8_T))
def make_fragment(
    header: Bytes,
    frame: Bytes,
    headers: int,
    payload: int,
    position: int,
    identification: int,
    out: Bytes,
) -> int:
    """Make the fragment of the payload at `position`, into `out` from HEADER_MAX on: its bytes.

    `identification`: 32 bits that the fragments of one IPv6 datagram share.
    """
    most = step(header, payload)
    size = min(most, payload - position)
    whole = most == payload
    more = position + size < payload
    network = HEADER_MAX + network_header(frame, headers)
    ipv4 = be16(frame, network - HEADER_MAX - 2) == IPV4
    for i in range(headers):
        out[HEADER_MAX + i] = frame[i]
    at = HEADER_MAX + headers
    if not ipv4 and not whole:
        _insert_header(out, network, at, position | (_MORE_V6 if more else 0), identification)
        at += FRAGMENT_HEADER
    for i in range(size):
        out[at + i] = frame[headers + position + i]
    end = at + size
    if ipv4:
        fragment = -1 if whole else position >> 3 | (_MORE_V4 if more else 0)
        _finish_v4(out, network, HEADER_MAX + headers, end, position, fragment)
    else:
        put_be16(out, network + 4, end - network - 40)
    return end - HEADER_MAX
