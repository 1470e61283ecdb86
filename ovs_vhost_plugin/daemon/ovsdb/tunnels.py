# SPDX-License-Identifier: Apache-2.0
"""Finds the userspace bridges that lead into tunnels which take no offloads. Pure.

With userspace-tso-enable Open vSwitch takes unfinished checksums and large frames, and drops them
at a tunnel that cannot finish them (netdev_push_header in lib/netdev.c, and NEWS of 3.5.0: before,
a device below the tunnel had to finish them).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from typing import Any

_TAKES_SINCE = dict.fromkeys(("vxlan", "geneve", "gre", "ip6gre"), (3, 5))
"""Tunnels → the first version that finishes frames in software."""
_OTHERS = ("erspan", "ip6erspan", "gtpu", "lisp", "stt", "srv6", "bareudp")


def version_of(text: str) -> tuple[int, int]:
    """Major and minor number of Open_vSwitch:ovs_version; (0, 0) if it has none."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})(?!\d)", text, re.ASCII)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def lead_into_tunnels(bridges: Iterable[Any], version: tuple[int, int]) -> frozenset[str]:
    """The bridges whose frames can reach such a tunnel, on the bridge itself or by patch ports.

    bridges  rows of the table Bridge; whether flows really send a frame there is not checked
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


def is_wire(kind: str) -> bool:
    """Whether interfaces of this type count for which bridges lead into tunnels."""
    return kind == "patch" or kind in _OTHERS or kind in _TAKES_SINCE


def _drops(kind: str, version: tuple[int, int]) -> bool:
    """Whether a tunnel of this type drops unfinished frames."""
    return kind in _OTHERS or (kind in _TAKES_SINCE and version < _TAKES_SINCE[kind])
