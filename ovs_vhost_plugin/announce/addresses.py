# SPDX-License-Identifier: Apache-2.0
"""What a guest is known to use: its stations, from whoever knows some, as one bounded set.

SEND_RARP names one MAC. A guest may use more of them, in several VLANs, and its neighbours hold
IP addresses in their caches, not only MACs in their tables. So stations come from automation
(`external_ids:vhost-user-addresses`, `attached-mac`), from SEND_RARP and from the guest's own
frames, and are merged by MAC and VLAN. What automation gives is so; the rest are claims, and
whoever uses a station has to mind which it is.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from enum import StrEnum

from ovs_vhost_plugin.announce.frames import FrameError, check_mac
from ovs_vhost_plugin.announce.model import Location
from ovs_vhost_plugin.common.named import NamedError
from ovs_vhost_plugin.net.station import MAX_VLAN, Station, is_host

MAX_STATIONS = 32  # of one port; what comes first is kept: the NIC's own MAC before all others
MAX_IPS = 8  # of one station and family

_MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")


class AddressErrorName(StrEnum):
    """What can be wrong with `external_ids:vhost-user-addresses`."""

    MAC = "addresses-mac-invalid"
    VLAN = "addresses-vlan-invalid"
    WORD = "addresses-word-invalid"
    TOO_MANY = "addresses-too-many"


class AddressError(NamedError):
    """What was given is no list of stations; the text says what to do."""


def parse(text: str) -> tuple[Station, ...]:
    """Read `MAC [vlan=N] [router] [IP ...]; MAC ...`. Raises AddressError."""
    stations = merge(_station(part) for part in text.split(";") if part.strip())
    if len(stations) > MAX_STATIONS:
        raise AddressError(AddressErrorName.TOO_MANY, f"give at most {MAX_STATIONS} addresses")
    return stations


def merge(stations: Iterable[Station]) -> tuple[Station, ...]:
    """One station for each MAC and VLAN, with all its IPs, in the order of their first mention."""
    merged: dict[tuple[bytes, int], Station] = {}
    for one in stations:
        key = one.mac, one.vlan
        had = merged.get(key)
        merged[key] = replace(
            one,
            ipv4=_united(had.ipv4 if had else (), one.ipv4),
            ipv6=_united(had.ipv6 if had else (), one.ipv6),
            router=one.router or (had is not None and had.router),
        )
    return tuple(merged.values())


def spread(stations: Sequence[Station], location: Location) -> tuple[Station, ...]:
    """The stations to announce at `location`: one for each MAC and VLAN of the bridge.

    What the port does not carry is left out. A MAC seen without a tag on a port that lists its
    VLANs (`trunks`, `cvlans`) is announced in each of them: the list says that they are the
    guest's. Through a tunnel it is announced in each customer VLAN: they are one for the bridge,
    and not for the switches of the customer. Nothing is in VLAN 4095, which is reserved: automation
    gives it to ports that are not wired yet.
    """
    listed = [vlan for vlan in location.listed if vlan and location.carries(vlan)]
    if len(listed) >= MAX_STATIONS:
        listed = []
    found = list(stations)
    for vlan in listed:
        found += [Station(one.mac, vlan) for one in stations if one.vlan == 0]
    kept: dict[tuple[bytes, int], Station] = {}
    for one in merge(found):
        vlan = location.vlan_of(one.vlan)
        if location.carries(one.vlan) and vlan <= MAX_VLAN:
            kept.setdefault((one.mac, one.vlan if location.is_tunnel else vlan), one)
    return tuple(kept.values())[:MAX_STATIONS]


def names(given: Iterable[Station], location: Location, mac: bytes, vlan: int) -> bool:
    """Whether `given` says that `mac` in the bridge's `vlan` is the guest's at `location`.

    As `spread` has it: a MAC given without a tag is in the port's own VLAN and in all of `trunks`.
    """
    listed = bool(vlan) and vlan in location.listed and not location.is_tunnel
    return any(
        one.mac == mac and (location.vlan_of(one.vlan) == vlan or (listed and one.vlan == 0))
        for one in given
    )


def _station(part: str) -> Station:
    first, *words = part.split()
    if not _MAC.fullmatch(first):
        raise AddressError(
            AddressErrorName.MAC, f"{first!r:.40}: begin each entry with a MAC, 52:54:00:12:34:56"
        )
    mac = bytes.fromhex(first.replace(":", ""))
    try:
        check_mac(mac)
    except FrameError as error:
        raise AddressError(
            AddressErrorName.MAC, f"{first} is no guest's address ({error.name})"
        ) from error
    station = Station(mac)
    for word in words:
        station = _with(station, word)
    return station


def _with(station: Station, word: str) -> Station:
    if word == "router":
        return replace(station, router=True)
    if word.startswith("vlan="):
        digits = word.removeprefix("vlan=")
        if not re.fullmatch("[0-9]{1,4}", digits, re.ASCII) or int(digits) > MAX_VLAN:
            raise AddressError(AddressErrorName.VLAN, f"{word!r:.40}: set vlan=0 to {MAX_VLAN}")
        return replace(station, vlan=int(digits))
    try:
        ip = b"" if "%" in word else ipaddress.ip_address(word).packed  # no scopes: of no frame
    except ValueError:
        ip = b""
    if not ip or not is_host(ip, len(ip)):
        raise AddressError(
            AddressErrorName.WORD,
            f"{word!r:.60}: after a MAC give vlan=N, router, or IP addresses of hosts",
        )
    if len(ip) == 4:
        return replace(station, ipv4=_united(station.ipv4, (ip,)))
    return replace(station, ipv6=_united(station.ipv6, (ip,)))


def _united(had: tuple[bytes, ...], more: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(had + more))[:MAX_IPS]
