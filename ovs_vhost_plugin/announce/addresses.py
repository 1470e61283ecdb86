# SPDX-License-Identifier: Apache-2.0
"""The stations of a guest: read from its row, and spread over the VLANs of its port. Pure.

SEND_RARP names one MAC. A guest may use more of them, in several VLANs, and its neighbours hold
IP addresses in their caches, not only MACs in their tables. So stations come from automation
(`external_ids:vhost-user-addresses`, `attached-mac`), from SEND_RARP and from the guest's own
frames, and are merged by MAC and VLAN. Automation's word counts; the rest are claims, and whoever
uses a station has to mind which it is.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

from ovs_vhost_plugin.common.named import NamedError
from ovs_vhost_plugin.net.ethernet import MacError, check_mac
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import MAX_VLAN, Station, StationKey, is_host, merge

ADDRESSES_KEY = "vhost-user-addresses"
"""Of external_ids: the stations that automation gives."""
MAX_STATIONS = 32  # of one port; what comes first is kept: the NIC's own MAC before all others

_MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")


class AddressErrorName(StrEnum):
    """The faults of `external_ids:vhost-user-addresses`."""

    MAC = "addresses-mac-invalid"
    VLAN = "addresses-vlan-invalid"
    WORD = "addresses-word-invalid"
    TOO_MANY = "addresses-too-many"


class AddressError(NamedError):
    """A text is no list of stations; the error's text says what to do."""


def parse(text: str) -> tuple[Station, ...]:
    """Read `MAC [vlan=N] [router] [IP ...]; MAC ...`. Raises AddressError."""
    stations = merge(_station(part) for part in text.split(";") if part.strip())
    if len(stations) > MAX_STATIONS:
        raise AddressError(AddressErrorName.TOO_MANY, f"give at most {MAX_STATIONS} addresses")
    return stations


def spread(stations: Sequence[Station], location: Location) -> tuple[Station, ...]:
    """The stations to announce at `location`: one for each MAC and VLAN of the bridge.

    A station in a VLAN that the port does not carry is left out. On a port that lists its VLANs
    (`trunks`, `cvlans`), a MAC seen without a tag is announced in each of them: the list says that
    they are the guest's. Through a tunnel it is announced in each customer VLAN: these are one VLAN
    for the bridge, and not for the switches of the customer. Nothing is announced in VLAN 4095,
    which is reserved: automation gives it to ports that are not wired yet.
    """
    port = location.vlan
    listed = [tag for tag in port.listed if tag and port.carries(tag)]
    if len(listed) >= MAX_STATIONS:
        listed = []
    found = list(stations)
    for tag in listed:
        found += [Station(one.mac, tag) for one in stations if one.vlan == 0]
    kept: dict[StationKey, Station] = {}
    for one in merge(found):
        vlan = port.vlan_of(one.vlan)
        if vlan is not None and vlan <= MAX_VLAN:
            kept.setdefault(StationKey(one.mac, one.vlan if port.is_tunnel else vlan), one)
    return tuple(kept.values())[:MAX_STATIONS]


def _station(part: str) -> Station:
    first, *words = part.split()
    if not _MAC.fullmatch(first):
        raise AddressError(
            AddressErrorName.MAC, f"{first!r:.40}: begin each entry with a MAC, 52:54:00:12:34:56"
        )
    mac = bytes.fromhex(first.replace(":", ""))
    try:
        check_mac(mac)
    except MacError as error:
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
    return station.with_ips((ip,), ()) if len(ip) == 4 else station.with_ips((), (ip,))
