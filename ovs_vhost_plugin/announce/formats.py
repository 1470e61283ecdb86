# SPDX-License-Identifier: Apache-2.0
"""Announcements in formats of others, which are entry points of installed Python packages.

A network that does not use ARP writes its own: a callable in the entry point group
`ovs_vhost_plugin.announcements` that is given a Guest and returns frames. It is code of whoever
runs the daemon, so it is trusted with the process, but not with being right: whatever it raises
or returns costs one announcement its frames, under a name.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from ovs_vhost_plugin.announce.policy import BUILT_IN
from ovs_vhost_plugin.common.text import escaped

GROUP = "ovs_vhost_plugin.announcements"
MAX_FRAMES = 16  # of one format for one station
MIN_BYTES, MAX_BYTES = 14, 1514  # an Ethernet header; what the smallest usual MTU takes


@dataclass(frozen=True, slots=True)
class Guest:
    """The guest of which an announcement is to be made.

    mac     6 bytes
    vlan    the 802.1Q tag that the frames will be given, 0 for none
    port, bridge  names in the switch
    """

    mac: bytes
    vlan: int
    ipv4: tuple[IPv4Address, ...]
    ipv6: tuple[IPv6Address, ...]
    port: str
    bridge: str


Format = Callable[[Guest], Iterable[bytes]]


class FormatError(Exception):
    """A format raised an error, or returned unfit frames; the text begins with its name."""


def installed() -> dict[str, Format]:
    """Load the formats there are, by name; one that cannot be loaded fails when it is used."""
    found: dict[str, Format] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        if point.name not in BUILT_IN:
            found[point.name] = _load(point)
    return found


def frames_of(name: str, formats: Mapping[str, Format], guest: Guest) -> list[bytes]:
    """The frames that the format `name` makes of `guest`, checked. Raises FormatError."""
    try:
        frames = list(formats[name](guest))
    except Exception as error:  # whatever it is, the daemon has other ports to serve
        said = escaped(f"{type(error).__name__}: {error}"[:200])
        raise FormatError(f"{name}: {said}") from error
    if len(frames) > MAX_FRAMES:
        raise FormatError(f"{name}: {len(frames)} frames, more than {MAX_FRAMES}")
    for frame in frames:
        if not isinstance(frame, bytes) or not MIN_BYTES <= len(frame) <= MAX_BYTES:
            raise FormatError(f"{name}: a frame is {MIN_BYTES} to {MAX_BYTES} bytes")
        if frame[6:12] != guest.mac:
            raise FormatError(f"{name}: a frame whose source is not the guest")
    return frames


def _load(point: importlib.metadata.EntryPoint) -> Format:
    try:
        loaded: Format = point.load()
    except Exception as error:
        broken = error

        def fail(_guest: Guest) -> Iterable[bytes]:
            raise broken

        return fail
    return loaded
