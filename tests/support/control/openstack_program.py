# SPDX-License-Identifier: Apache-2.0
"""OpenStack's libraries doing what they are told by a JSON object on standard input.

A program of its own, as they have their own place (tests/openstack.txt): `openstack_host` runs it.

    {"commands": [["add_port", ["br0", "vhu0"], {}], ...]}     ovsdbapp, in one transaction
    {"plug" or "unplug": {...}}                                os-vif, as Nova calls it
"""

import json
import sys
import tempfile


def transact(remote: str, commands: list) -> None:
    from ovsdbapp.backend.ovs_idl import connection
    from ovsdbapp.schema.open_vswitch import impl_idl

    idl = connection.OvsdbIdl.from_server(remote, "Open_vSwitch")
    api = impl_idl.OvsdbIdl(connection.Connection(idl=idl, timeout=30))
    with api.transaction(check_error=True) as transaction:
        for method, arguments, options in commands:
            # Lists of JSON are the tuples that db_set takes.
            arguments = [tuple(one) if isinstance(one, list) else one for one in arguments]
            transaction.add(getattr(api, method)(*arguments, **options))


def os_vif(remote: str, action: str, vif: dict) -> None:
    import os_vif
    from os_vif import objects
    from oslo_config import cfg
    from vif_plug_ovs import privsep

    # In this process, and not in one that sudo starts: the test is root.
    privsep.vif_plug.set_client_mode(False)
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
        isolate = vif["isolate"]
        config.write(f"[os_vif_ovs]\novsdb_connection = {remote}\nisolate_vif = {isolate}\n")
        config.flush()
        cfg.CONF(["--config-file", config.name])
    os_vif.initialize()
    profile = objects.vif.VIFPortProfileOpenVSwitch(interface_id=vif["id"], datapath_type="netdev")
    network = objects.network.Network(id=vif["id"], bridge=vif["bridge"], mtu=vif["mtu"])
    plugged = objects.vif.VIFVHostUser(
        id=vif["id"],
        address=vif["mac"],
        vif_name=vif["name"],
        path=vif["path"],
        mode=vif["mode"],
        network=network,
        plugin="ovs",
        port_profile=profile,
    )
    instance = objects.instance_info.InstanceInfo(uuid=vif["vm"], name="vm")
    getattr(os_vif, action)(plugged, instance)


def main() -> None:
    remote = sys.argv[1]
    for action, what in json.load(sys.stdin).items():
        if action == "commands":
            transact(remote, what)
        else:
            os_vif(remote, action, what)


if __name__ == "__main__":
    main()
