# SPDX-License-Identifier: Apache-2.0
"""Which userspace bridges lead into tunnels that take no offloads. Pure.

With userspace-tso-enable Open vSwitch takes unfinished checksums and large frames, and drops them
where they would go into a tunnel that has no way to finish them (netdev_push_header in
lib/netdev.c, and NEWS of 3.5.0: before, a device below the tunnel had to do it).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from typing import Any

_TAKES_SINCE = dict.fromkeys(("vxlan", "geneve", "gre", "ip6gre"), (3, 5))
"""Tunnels → the first version that finishes in software what is left to do."""
_OTHERS = ("erspan", "ip6erspan", "gtpu", "lisp", "stt", "srv6", "bareudp")


def version_of(text: str) -> tuple[int, int]:
    """Major and minor number of Open_vSwitch:ovs_version; (0, 0) where it does not say."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})(?!\d)", text, re.ASCII)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def lead_into_tunnels(bridges: Iterable[Any], version: tuple[int, int]) -> frozenset[str]:
    """The bridges from which frames can come to such a tunnel: its own, and by patch ports.

    bridges  rows of the table Bridge; whether the flows really send a frame there is not asked
    """
    bridge_of, peers, found = {}, {}, deque[str]()
    for bridge in bridges:
        for port in bridge.ports:
            for interface in port.interfaces:
                bridge_of[interface.name] = bridge.name
                if interface.type == "patch":
                    peers[interface.name] = interface.options.get("peer", "")
                elif _drops(interface.type, version):
                    found.append(bridge.name)
    leads: set[str] = set()
    while found:
        bridge_name = found.popleft()
        if bridge_name not in leads:
            leads.add(bridge_name)
            found += [
                bridge_of[name]
                for name, peer in peers.items()
                if bridge_of.get(peer) == bridge_name
            ]
    return frozenset(leads)


def _drops(kind: str, version: tuple[int, int]) -> bool:
    """Whether a tunnel of this type drops what is unfinished."""
    return kind in _OTHERS or (kind in _TAKES_SINCE and version < _TAKES_SINCE[kind])
