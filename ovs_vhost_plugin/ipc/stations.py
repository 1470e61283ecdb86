# SPDX-License-Identifier: Apache-2.0
"""Stations in messages: keys as one word, addresses as people write them."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any

from ovs_vhost_plugin.ipc.codec import Codec, Count, MessageError, Text
from ovs_vhost_plugin.net.station import (
    MAX_IPS,
    MAX_VLAN,
    Station,
    StationKey,
    is_host,
    is_unicast,
)


class KeyCodec(Codec):
    """A station's key as "525400123456.10"."""

    def encode(self, value: StationKey) -> str:
        """The word."""
        return value.encode()

    def decode(self, value: object) -> StationKey:
        """Check and read a key."""
        try:
            return StationKey.decode(value)
        except ValueError as error:
            raise MessageError(str(error)) from error


Key = Annotated[StationKey, KeyCodec()]


class Mac(Codec):
    """A MAC as "52:54:00:12:34:56"."""

    def encode(self, value: bytes) -> str:
        """The text."""
        return value.hex(":")

    def decode(self, value: object) -> bytes:
        """Check and read a MAC, which may be a group's."""
        text = Text(17, "[0-9a-f]{2}(:[0-9a-f]{2}){5}").decode(value)
        return bytes.fromhex(text.replace(":", ""))


class StationCodec(Codec):
    """A station as {mac, vlan, router, ipv4, ipv6}, addresses as people write them."""

    def encode(self, value: Station) -> dict[str, Any]:
        """The object."""
        return {
            "mac": value.mac.hex(":"),
            "vlan": value.vlan,
            "router": value.router,
            "ipv4": [str(ipaddress.IPv4Address(ip)) for ip in value.ipv4],
            "ipv6": [str(ipaddress.IPv6Address(ip)) for ip in value.ipv6],
        }

    def decode(self, value: object) -> Station:
        """Check and read a station: a guest's MAC and addresses of hosts."""
        match value:
            case {"mac": mac, "vlan": vlan, "router": bool() as router, "ipv4": v4, "ipv6": v6}:
                station = Station(
                    Mac().decode(mac),
                    Count(MAX_VLAN).decode(vlan),
                    self._ips(v4, 4),
                    self._ips(v6, 6),
                    router,
                )
                if not is_unicast(station.mac):
                    raise MessageError("no guest's MAC")
                return station
        raise MessageError("no station")

    @staticmethod
    def _ips(texts: object, version: int) -> tuple[bytes, ...]:
        if not isinstance(texts, list) or len(texts) > MAX_IPS:
            raise MessageError("no list of addresses, or too many")
        family = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
        found = []
        for text in texts:
            try:
                ip = family(text) if isinstance(text, str) else None
            except ValueError:
                ip = None
            # an address with a scope is spelled right, but is in no frame
            if ip is None or "%" in text:
                raise MessageError("no IP address")
            if not is_host(ip.packed, len(ip.packed)):
                raise MessageError("no host's IP address")
            found.append(ip.packed)
        return tuple(found)
