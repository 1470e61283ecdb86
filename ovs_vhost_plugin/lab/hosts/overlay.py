# SPDX-License-Identifier: Apache-2.0
"""Tunnels over the physical network, ended by Open vSwitch itself.

The hosts' uplinks and the physical switch become the network below, on which each of the three has
an address, and the guests' bridges are joined by tunnels with a third one, where the client is:

    host a: br0 ── tunnel ──┐
                            net0 ── client          every end: under0 (or phy0), 192.0.2.N
    host b: br0 ── tunnel ──┘
"""

from __future__ import annotations

from dataclasses import dataclass

from ovs_vhost_plugin.lab.hosts.fabric import PHYSICAL, UPLINK, Fabric
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.hosts.switch import PrivateSwitch

UNDERLAY = "under0"
THIRD = "net0"
"""The bridge of the client, on the physical switch."""
_KEY = "7"


@dataclass(frozen=True, slots=True)
class End:
    """An end of tunnels: a bridge of a switch, and the address that its device `below` has."""

    switch: PrivateSwitch
    bridge: str
    below: str
    name: str
    address: str


def ends(fabric: Fabric) -> tuple[End, End, End]:
    """The ends at hosts a and b, and at the client's bridge."""
    return (
        End(fabric.a.switch, BRIDGE, UNDERLAY, "a", "192.0.2.1"),
        End(fabric.b.switch, BRIDGE, UNDERLAY, "b", "192.0.2.2"),
        End(fabric.physical, THIRD, PHYSICAL, "c", "192.0.2.3"),
    )


def lay(fabric: Fabric, kind: str, *, mesh: bool) -> None:
    """Join the bridges by tunnels of a type: all to the client's, or (`mesh`) each to each.

    In a mesh a frame that came by a tunnel leaves by none: the tunnels' ports are protected.
    """
    first, second, third = ends(fabric)
    for host in (fabric.a, fabric.b):
        _put_below(host)
    fabric.physical.add_bridge(THIRD)
    for end in (first, second, third):
        address = (f"{end.address}/24", "dev", end.below)
        end.switch.namespace.run("ip", "address", "replace", *address)
    fabric.physical.vsctl("del-port", PHYSICAL, fabric.client_port)
    fabric.physical.add_port(THIRD, fabric.client_port)
    fabric.client_bridge = THIRD
    pairs = [(first, third), (second, third), *([(first, second)] if mesh else [])]
    for one, other in pairs:
        for here, there in ((one, other), (other, one)):
            name = fabric.tunnel_to(there.name)
            here.switch.add_port(
                here.bridge,
                name,
                f"type={kind}",
                f"options:remote_ip={there.address}",
                f"options:key={_KEY}",
            )
            if mesh:
                here.switch.vsctl("set", "Port", name, "protected=true")
            # Without it ARP would ask for the MAC, and frames sent until the answer be lost.
            mac = there.switch.namespace.mac(there.below)
            neighbour = (here.below, there.address, mac)
            here.switch.appctl("ovs-vswitchd", "tnl/neigh/set", *neighbour)


def take_up(fabric: Fabric) -> None:
    """Remove all tunnels; the hosts' uplinks are on no bridge then."""
    for end in ends(fabric):
        for other in "abc":
            end.switch.vsctl("--if-exists", "del-port", fabric.tunnel_to(other))
    for host in (fabric.a, fabric.b):
        host.switch.vsctl("--if-exists", "del-br", UNDERLAY)
    fabric.physical.vsctl("--if-exists", "del-br", THIRD)
    fabric.physical.add_port(PHYSICAL, fabric.client_port)
    fabric.client_bridge = PHYSICAL


def _put_below(host: Host) -> None:
    host.switch.vsctl("--if-exists", "del-port", UPLINK)
    host.switch.add_bridge(UNDERLAY)
    host.switch.add_port(UNDERLAY, UPLINK)
