# SPDX-License-Identifier: Apache-2.0
"""Composes the announcement of one station: the frames that its policy names, in its VLAN."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address

from ovs_vhost_plugin.announce.formats import Format, FormatError, Guest, frames_of
from ovs_vhost_plugin.announce.frames import announcements
from ovs_vhost_plugin.announce.policy import BUILT_IN, Policy
from ovs_vhost_plugin.net.ethernet import tagged
from ovs_vhost_plugin.net.station import Station

NO_ADDRESS = bytes(4)
"""As the sender of ARP it makes a probe, from which nobody learns an address (RFC 5227, 1.1)."""


def compose(
    station: Station,
    policy: Policy,
    formats: Mapping[str, Format],
    port: str,
    bridge: str,
    *,
    slb: bool = False,
) -> tuple[tuple[bytes, ...], str]:
    """Return the frames, tagged as the guest tags, and the error of a user's format or "".

    slb: the port is in a balance-slb bond, on which nothing but gratuitous ARP moves a MAC
    """
    made: list[bytes] = []
    wrong = ""
    for name in policy.frames:
        if name in BUILT_IN:
            made += _built_in(name, station, slb=slb)
            continue
        guest = Guest(
            mac=station.mac,
            vlan=station.vlan,
            ipv4=tuple(map(IPv4Address, station.ipv4)),
            ipv6=tuple(map(IPv6Address, station.ipv6)),
            port=port,
            bridge=bridge,
        )
        try:
            made += frames_of(name, formats, guest)
        except FormatError as error:
            wrong = str(error)
    return tuple(tagged(frame, station.vlan) for frame in made), wrong


def _built_in(name: str, station: Station, *, slb: bool) -> list[bytes]:
    if name == "garp" and slb and not station.ipv4:
        return [announcements.gratuitous_arp(station.mac, NO_ADDRESS)]
    if name == "garp":
        return [announcements.gratuitous_arp(station.mac, ip) for ip in station.ipv4]
    if name == "na":
        return [
            announcements.neighbor_advertisement(station.mac, ip, router=station.router)
            for ip in station.ipv6
        ]
    return [announcements.rarp(station.mac)]
