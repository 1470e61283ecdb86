# SPDX-License-Identifier: Apache-2.0
"""A guest's stations as bytes that travel with it (vhost-user "Migrating back-end state").

All numbers are little-endian:

    header   "OVHS", u16 version, u16 oldest, u32 bytes that follow, u32 their CRC-32
    record   u16 kind, u16 bytes that follow; kinds that a reader does not know are skipped
    1 NIC    the 6-byte MAC that SEND_RARP named
    2 station  6-byte MAC, u16 VLAN (0: untagged), u8 flags (bit 0: router), u8 addresses,
             u32 age in ms; of each address 16 bytes (IPv4 as IPv4-mapped) and u32 age in ms

`oldest` is the oldest version whose readers understand everything that matters. A newer writer
raises it only if the guest would come to harm without the new records. So a guest can move to a
host with an older release. A state is refused only if it is damaged, or another program's.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from struct import Struct

from ovs_vhost_plugin.jit.layout import ADDRESSES, STATIONS
from ovs_vhost_plugin.net.ethernet import MacError, check_mac
from ovs_vhost_plugin.net.station import MAX_VLAN, is_host
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.worker.learned.stations import LearnedStation

VERSION = 1
MAX_SIZE = 1 << 16
"""The most bytes of a state that are read; a state of this version has at most 12 KiB."""

_MAGIC = b"OVHS"
_HEADER = Struct("<4sHHII")
_RECORD = Struct("<HH")
_STATION = Struct("<6sHBBI")
_ADDRESS = Struct("<16sI")
_NIC_KIND, _STATION_KIND = 1, 2
_ROUTER = 0x1
_MAX_AGE = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Saved:
    """A guest's state: its NIC's MAC, if SEND_RARP named it, and its stations."""

    nic: bytes | None
    stations: Sequence[LearnedStation]


def encode(saved: Saved, now: int) -> bytes:
    """The state at `now` (ms of CLOCK_MONOTONIC, as the times in the stations)."""
    records = [] if saved.nic is None else [(_NIC_KIND, saved.nic)]
    records += [(_STATION_KIND, _station(one, now)) for one in saved.stations]
    body = b"".join(_RECORD.pack(kind, len(data)) + data for kind, data in records)
    return _HEADER.pack(_MAGIC, VERSION, VERSION, len(body), zlib.crc32(body)) + body


def decode(data: bytes, now: int) -> Saved:
    """Check and read a state; its ages become times before `now`. Raises PeerError."""
    nic = None
    stations: list[LearnedStation] = []
    for kind, record in _records(_body(data)):
        if kind == _NIC_KIND:
            nic = _checked_mac(record)
        elif kind == _STATION_KIND:
            stations.append(_read_station(record, now))
    if len(stations) > STATIONS:
        raise PeerError(PeerErrorName.DEVICE_STATE_STATION, f"{len(stations)} of them")
    return Saved(nic, stations)


def _body(data: bytes) -> bytes:
    if len(data) < _HEADER.size:
        raise PeerError(PeerErrorName.DEVICE_STATE_TRUNCATED, f"{len(data)} bytes")
    magic, version, oldest, size, checksum = _HEADER.unpack_from(data)
    body = data[_HEADER.size :]
    if magic != _MAGIC:
        raise PeerError(PeerErrorName.DEVICE_STATE_DAMAGED, f"begins with {magic.hex()}")
    if oldest > VERSION:
        raise PeerError(PeerErrorName.DEVICE_STATE_VERSION, f"{version}, for {oldest} and later")
    if len(body) < size:
        detail = f"{len(body)} bytes of {size}"
        raise PeerError(PeerErrorName.DEVICE_STATE_TRUNCATED, detail)
    if len(body) > size or zlib.crc32(body) != checksum:
        raise PeerError(PeerErrorName.DEVICE_STATE_DAMAGED, "length or checksum")
    return body


def _records(body: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(body):
        begin = at + _RECORD.size
        if begin > len(body):
            raise PeerError(PeerErrorName.DEVICE_STATE_DAMAGED, f"record at {at}")
        kind, size = _RECORD.unpack_from(body, at)
        at = begin + size
        if at > len(body):
            raise PeerError(PeerErrorName.DEVICE_STATE_DAMAGED, f"record of kind {kind}: {size}")
        yield kind, body[begin:at]


def _station(station: LearnedStation, now: int) -> bytes:
    flags = _ROUTER if station.router else 0
    count = len(station.addresses)
    head = _STATION.pack(station.mac, station.vlan, flags, count, _age(station.seen, now))
    return head + b"".join(
        _ADDRESS.pack(_mapped(ip.packed), _age(seen, now)) for ip, seen in station.addresses.items()
    )


def _read_station(record: bytes, now: int) -> LearnedStation:
    if len(record) < _STATION.size:
        raise PeerError(PeerErrorName.DEVICE_STATE_STATION, f"{len(record)} bytes")
    mac, vlan, flags, count, age = _STATION.unpack_from(record)
    rest = record[_STATION.size :]
    if vlan > MAX_VLAN or count > ADDRESSES or len(rest) != count * _ADDRESS.size:
        detail = f"VLAN {vlan}, {count} addresses in {len(rest)} bytes"
        raise PeerError(PeerErrorName.DEVICE_STATE_STATION, detail)
    station = LearnedStation(_checked_mac(mac), vlan, now - age, bool(flags & _ROUTER))
    for packed, ip_age in _ADDRESS.iter_unpack(rest):
        ipv6 = IPv6Address(packed)
        ip = ipv6.ipv4_mapped or ipv6
        if not is_host(ip.packed, len(ip.packed)):
            raise PeerError(PeerErrorName.DEVICE_STATE_STATION, f"address {ip}")
        station.addresses[ip] = now - ip_age
    return station


def _checked_mac(mac: bytes) -> bytes:
    try:
        check_mac(mac)
    except MacError as error:
        raise PeerError(PeerErrorName.DEVICE_STATE_STATION, str(error)) from None
    return mac


def _mapped(packed: bytes) -> bytes:
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed


def _age(seen: int, now: int) -> int:
    return max(0, min(now - seen, _MAX_AGE))
