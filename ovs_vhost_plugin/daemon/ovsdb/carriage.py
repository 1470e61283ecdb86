# SPDX-License-Identifier: Apache-2.0
"""The switch's handling of a port's frames, from its rows: MTU, offloads, or nothing at all.

Pure. A row is any object with the columns as attributes.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Any

from ovs_vhost_plugin.common.text import escaped

USERSPACE = "netdev"
"""Bridge.datapath_type of a bridge with ovs-vswitchd's own datapath."""
_BUILT_IN = "<built-in>"
"""Bridge.datapath_version of such a bridge."""
TAP_MTU_MAX = 65535 - 14
"""Longest frame of a tap, less its Ethernet header (tun_net_initialize in drivers/net/tun.c)."""


class Trouble(StrEnum):
    """Faults of an existing port that ovs-vswitchd's columns can show."""

    CANNOT_CARRY = "bridge-cannot-carry"
    MTU_NOT_TAKEN = "mtu-not-taken"


class Offloads(StrEnum):
    """The handling of checksums and segmentation that the guest leaves undone."""

    AUTO = "auto"  # finished here unless the bridge, and where it leads to, takes them
    FINISH = "finish"
    PASS = "pass"  # left to a bridge that takes them, wherever it leads to


def finishes(
    offloads: str, bridge: Any, *, takes_offloads: bool, into_tunnels: Collection[str]
) -> bool:
    """Whether the port finishes its guest's frames.

    takes_offloads  userspace bridges take unfinished frames
    into_tunnels    names of bridges that lead to tunnels which drop them all the same
    """
    if offloads == Offloads.FINISH:
        return True
    if bridge.datapath_type != USERSPACE:
        return False
    if not takes_offloads:
        return True  # unfinished frames would be damaged, whatever is asked for
    return offloads != Offloads.PASS and bridge.name in into_tunnels


def offered_mtu(request: int, interface: Any) -> tuple[int | None, str]:
    """The MTU to offer where `request` is asked for, and the fault of the request, or "".

    The guest is offered the tap's MTU, which ovs-vswitchd sets.
    """
    has = next(iter(interface.mtu), None if request > TAP_MTU_MAX else request)
    if has == request:
        return request, ""
    offered = "no MTU" if has is None else f"{has}, which the tap has"
    return has, f"mtu_request={request}: a tap takes {TAP_MTU_MAX} at most; offered is {offered}"


def uncarried(interface: Any, bridge: Any) -> str:
    """The reason why ovs-vswitchd does not carry the port's frames; "" if it does."""
    if interface.error:
        return f"Open vSwitch says: {escaped(interface.error[0]):.150}"
    version = bridge.datapath_version
    if version and (version == _BUILT_IN) is not (bridge.datapath_type == USERSPACE):
        # A bridge's former values stay in its row when it cannot be made again.
        return (
            f"ovs-vswitchd has made no datapath_type={escaped(bridge.datapath_type) or 'system'}, "
            "its log says why (is the kernel module openvswitch loaded?)"
        )
    if not any(number > 0 for number in interface.ofport):
        return "ovs-vswitchd has given the port no number; does it run? its log says more"
    return ""
