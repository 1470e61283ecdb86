# SPDX-License-Identifier: Apache-2.0
"""Rows of the database as the Idl shows them, and what is made of them."""

from types import SimpleNamespace
from typing import Any

from ovs_vhost_plugin.daemon.ovsdb import interface_rows as rows
from ovs_vhost_plugin.daemon.ovsdb.switch_row import Switch, parse_switch

RUNDIR = "/run/ovs"


def interface(name: str = "vhu0", **columns: Any) -> Any:
    return SimpleNamespace(
        **{
            "name": name,
            "type": "",
            "options": {"vhost-server-path": "/run/vm.sock"},
            "external_ids": {},
            "mtu_request": [],
            "mtu": [],
            "ofport": [3],
            "error": [],
            "admin_state": [],
            **columns,
        }
    )


def server(name: str = "vhu0", **external_ids: str) -> Any:
    keys = {key.replace("_", "-"): value for key, value in external_ids.items()}
    return interface(name, options={}, external_ids={"vhost-user-mode": "server", **keys})


PORT: dict[str, Any] = {
    "tag": [],
    "trunks": [],
    "cvlans": [],
    "vlan_mode": [],
    "other_config": {},
    "bond_mode": [],
    "status": {},
    "rstp_status": {},
}
"""A Port row's columns but for its interfaces."""


def port(**columns: Any) -> Any:
    return SimpleNamespace(**{**PORT, "interfaces": [interface()], **columns})


def bridge(datapath_type: str = "netdev", fail_mode: tuple[str, ...] = ()) -> Any:
    return SimpleNamespace(
        name="br0",
        datapath_type=datapath_type,
        datapath_version="<built-in>" if datapath_type == "netdev" else "<unknown>",
        fail_mode=list(fail_mode),
        mcast_snooping_enable=False,
    )


def switch(*tunnels: str, version: str = "3.1.0", **other_config: str) -> Switch:
    """A switch whose bridge br0 has tunnels of these types."""
    ports = [port(interfaces=[interface(kind, type=kind)]) for kind in tunnels]
    row = SimpleNamespace(
        bridges=[SimpleNamespace(name="br0", ports=ports)],
        ovs_version=[version] if version else [],
        external_ids={},
        other_config={key.replace("_", "-"): value for key, value in other_config.items()},
        iface_types=["system", "internal"],
    )
    return parse_switch(row, RUNDIR)


def parse(row: Any, **others: Any) -> rows.PortSpec:
    found = {"port": port(), "bridge": bridge(), "switch": switch(), **others}
    return rows.parse(row, **found)
