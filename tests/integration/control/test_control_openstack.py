# SPDX-License-Identifier: Apache-2.0
"""What OpenStack does to rows, by its own library (ovsdbapp), in one transaction each."""

import pytest
from support.control.openstack_host import missing, transact

from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def host(require, make_host):
    require(not missing(), missing())
    return make_host(daemon_options=["--adopt-dpdk-types"])


def client_port(name: str, path) -> list:
    """The commands of os-vif's create_ovs_vif_port, for a VM that listens."""
    columns = (
        ["type", "dpdkvhostuserclient"],
        ["options", {"vhost-server-path": str(path)}],
        ["external_ids", {"iface-id": name, "attached-mac": "52:54:00:00:00:01"}],
    )
    return [
        ("add_port", [BRIDGE, name]),
        ("db_set", ["Interface", name, *columns]),
    ]


def test_a_port_and_others_in_one_transaction(host) -> None:
    transact(
        host,
        ("add_br", ["br1", True, "netdev"]),
        *client_port("vhu0", host.directory / "vhu0.sock"),
        ("db_set", ["Port", "vhu0", ["tag", 7]]),
        ("add_port", [BRIDGE, "in0"]),
        ("db_set", ["Interface", "in0", ["type", "internal"]]),
        ("add_port", ["br1", "vhu1"]),
        ("db_set", ["Interface", "vhu1", ["type", "dpdkvhostuser"]]),
    )
    host.wait_status("vhu0", "connecting")
    host.wait_status("vhu1", "listening")
    for name in ("vhu0", "vhu1", "in0"):
        assert host.wait_ofport(name) > 0


def test_forty_ports_in_one_transaction(host) -> None:
    names = [f"vhu{number}" for number in range(40)]
    ports = (client_port(name, host.directory / f"{name}.sock") for name in names)
    transact(host, *(command for port in ports for command in port))
    for name in names:
        host.wait_status(name, "connecting")
    assert len({host.wait_ofport(name) for name in names}) == 40
    assert len({host.worker_pid(name) for name in names}) == 40

    transact(host, *(("del_port", [name]) for name in names))
    for name in names:
        host.wait_gone(name)


def test_a_port_is_deleted_and_added_in_one_transaction(host) -> None:
    path = host.directory / "vhu0.sock"
    transact(host, *client_port("vhu0", path))
    host.wait_status("vhu0", "connecting")
    uuid = host.switch.interface("vhu0", "_uuid")
    transact(host, ("del_port", ["vhu0"]), *client_port("vhu0", path))
    assert host.switch.interface("vhu0", "_uuid") != uuid
    host.wait_status("vhu0", "connecting")
    assert host.wait_ofport("vhu0") > 0


def test_a_port_of_another_name_takes_its_socket_over_in_one_transaction(host) -> None:
    path = host.directory / "vhu0.sock"
    transact(host, *client_port("vhu0", path))
    host.wait_status("vhu0", "connecting")
    transact(host, ("del_port", ["vhu0"]), *client_port("vhu1", path))
    host.wait_status("vhu1", "connecting")
    assert "error" not in host.status("vhu1")
    wait_until(lambda: not host.link("vhu0"), "the end of vhu0")
