# SPDX-License-Identifier: Apache-2.0
"""A Port row's effect on its frames: VLANs, bond, spanning tree. Pure.

Columns as in ovs-vswitchd.conf.db(5), table Port.
"""

from collections.abc import Iterable
from typing import Any

from ovs_vhost_plugin.common.text import escaped
from ovs_vhost_plugin.net.ethernet import C_TAG, S_TAG
from ovs_vhost_plugin.net.vlan import PortVlan, VlanMode

_SLB = "balance-slb"


def numbers(interfaces: Iterable[Any]) -> tuple[int, ...]:
    """The OpenFlow ports of interfaces; the bridge treats a bond's ports as one."""
    found = (number for interface in interfaces for number in interface.ofport)
    return tuple(sorted(number for number in found if number > 0))


def is_slb(port: Any) -> bool:
    """Whether the port is a balance-slb bond: it drops most frames of a guest that moved to it."""
    return len(port.interfaces) > 1 and list(port.bond_mode) == [_SLB]


def hindered(port: Any) -> str:
    """The reason why the spanning tree keeps the bridge from passing the port's frames, or ""."""
    rstp = port.rstp_status.get("rstp_port_state", "Forwarding")
    stp = port.status.get("stp_state", "forwarding")
    if rstp != "Forwarding":
        return f"RSTP: {escaped(rstp)}"
    return "" if stp == "forwarding" else f"STP: {escaped(stp)}"


def parse_vlan(port: Any) -> PortVlan:
    """A Port row's VLAN settings (ovs-vswitchd.conf.db(5), Port, "VLAN Configuration")."""
    tag = int(port.tag[0]) if port.tag else None
    default = VlanMode.TRUNK if tag is None else VlanMode.ACCESS
    mode = VlanMode(port.vlan_mode[0]) if port.vlan_mode else default
    tpid = C_TAG if port.other_config.get("qinq-ethtype") == "802.1q" else S_TAG
    # A trunk port has no VLAN of its own, whatever `tag` says.
    own = 0 if tag is None or mode is VlanMode.TRUNK else tag
    trunks, cvlans = frozenset(port.trunks), frozenset(port.cvlans)
    return PortVlan(mode, own, trunks, cvlans, tpid, bond=len(port.interfaces) > 1)
