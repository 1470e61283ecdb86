# SPDX-License-Identifier: Apache-2.0
"""Where rows say that ports are, and which MACs are whose there. Pure."""

from collections.abc import Collection, Mapping

from ovs_vhost_plugin.announce.model import Location
from ovs_vhost_plugin.daemon.ovsdb import Snapshot
from ovs_vhost_plugin.daemon.rows import PortSpec, parse_mac


def location_of(port: PortSpec, rundir: str) -> Location:
    """Where frames of the port's guest come in."""
    return Location(
        bridge=port.bridge,
        ofport=port.ofport or -1,
        tag=port.tag,
        mgmt_path=f"{rundir}/{port.bridge}.mgmt",
        vlan_mode=port.vlan_mode,
        trunks=port.trunks,
        ovn=port.ovn,
    )


def mac_of_row(port: PortSpec) -> bytes | None:
    """The guest's MAC as automation gave it (external_ids:attached-mac)."""
    return parse_mac(port.attached_mac)


def given_to(port: PortSpec, mac: bytes) -> bool:
    """Whether automation gave `mac` to the port's guest."""
    return mac == mac_of_row(port) or any(mac == one.mac for one in port.addresses)


def foreign(
    mac: bytes,
    port: PortSpec,
    snapshot: Snapshot,
    running: Collection[str],
    rarped: Mapping[str, bytes | None],
) -> str:
    """Why `mac` is not the port's guest's to announce, "" if nothing speaks against it.

    It is another's if it is the bridge's own, or if it was given to, or is the NIC's of, another
    guest that runs on the same bridge. What a guest only uses does not make it its own, or one
    guest could keep another from being announced.

    running  ports whose guests run; of a guest that moves between two ports only one does
    rarped   the MAC that each port's front-end last sent SEND_RARP for
    """
    if any(mac == parse_mac(own) for own in snapshot.own_macs.get(port.bridge, ())):
        return "mac-foreign: the bridge's own"
    if given_to(port, mac):
        return ""
    for name, other in snapshot.ports.items():
        if name == port.name or other.bridge != port.bridge or name not in running:
            continue
        if given_to(other, mac) or rarped.get(name) == mac:
            return f"mac-foreign: {name}'s"
    return ""
