# SPDX-License-Identifier: Apache-2.0
"""`--adopt-dpdk-types`: rows written for OVS-DPDK, and the types that Neutron looks for."""

import json
import signal

import pytest

from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.lab.process import PATIENCE, wait_until

pytestmark = pytest.mark.integration

OPTION = "--adopt-dpdk-types"
OURS = {"dpdkvhostuser", "dpdkvhostuserclient"}


@pytest.fixture
def host(make_host):
    return make_host(daemon_options=[OPTION])


def iface_types(host) -> set[str]:
    columns = "--columns=iface_types", "--format=json", "--data=json"
    shown = json.loads(host.switch.vsctl(*columns, "list", "Open_vSwitch"))
    return set(shown["data"][0][0][1])


def wait_told(host) -> None:
    """As a unit waits that is to start after us (docs/openstack.md)."""
    for name in sorted(OURS):
        host.switch.wait_until("Open_vSwitch", ".", f"iface_types{{>=}}{name}")


def wait_taken_back(host) -> None:
    wait_until(lambda: not iface_types(host) & OURS, "the switch's own types alone")


def neutron_chooses_vhost_user(host) -> bool:
    """As ML2/OVS decides (get_supported_vif_type in neutron's mech_openvswitch.py).

    Its agent reports iface_types, and the datapath_type that it is to give its bridges.
    """
    netdev = host.switch.vsctl("get", "Bridge", BRIDGE, "datapath_type") == "netdev"
    return bool(iface_types(host) & OURS) and netdev


def test_rows_are_taken_over_on_request(host) -> None:
    path = host.directory / "vhu0.sock"
    host.switch.add_port(
        BRIDGE, "vhu0", "type=dpdkvhostuserclient", f"options:vhost-server-path={path}"
    )
    host.switch.add_port(BRIDGE, "vhu1", "type=dpdkvhostuser")

    host.wait_status("vhu0", "connecting")
    host.wait_status("vhu1", "listening")
    assert host.wait_ofport("vhu0") > 0
    assert host.switch.interface("vhu0", "type") == ""
    assert host.status("vhu0")["dpdk-type"] == "dpdkvhostuserclient"
    assert host.status("vhu1")["dpdk-type"] == "dpdkvhostuser"


def test_rows_and_types_are_left_alone_otherwise(make_host) -> None:
    host = make_host()
    host.switch.vsctl(
        *("--no-wait", "add-port", BRIDGE, "vhu1"),
        *("--", "set", "Interface", "vhu1", "type=dpdkvhostuser"),
    )
    host.add_client_port("vhu0")
    host.wait_status("vhu0", "connecting")

    assert host.switch.interface("vhu1", "type") == "dpdkvhostuser"
    assert not host.status("vhu1")
    assert not neutron_chooses_vhost_user(host)


def test_neutron_finds_the_types_whenever_the_switch_has_written_its_own(host) -> None:
    wait_told(host)
    assert neutron_chooses_vhost_user(host) and iface_types(host) > OURS

    host.switch.add_port(BRIDGE, BRIDGE[::-1], "type=internal")
    wait_told(host)

    for kill in (False, True):
        host.switch.restart_vswitchd(kill=kill)
        wait_told(host)

    host.switch.restart_server()
    host.switch.add_port(BRIDGE, "vhu1", "type=dpdkvhostuser")
    wait_told(host)
    host.wait_status("vhu1", "listening")


def test_a_daemon_after_one_that_was_killed_does_not_take_them_for_the_switch_s(host) -> None:
    wait_told(host)
    host.stop_daemon(kill=True)
    host.switch.vsctl(
        *("--no-wait", "add-port", BRIDGE, "vhu0"),
        *("--", "set", "Interface", "vhu0", "type=dpdkvhostuser"),
    )
    host.start_daemon()
    host.wait_status("vhu0", "listening")
    wait_told(host)


def test_a_daemon_without_the_option_takes_them_back(host) -> None:
    wait_told(host)
    host.appctl("exit")
    assert host.daemon.wait(PATIENCE) == 0
    assert iface_types(host) > OURS, "for the next daemon"
    host.daemon = host.start_another([])
    wait_taken_back(host)


def test_cleaning_up_takes_them_back(host) -> None:
    wait_told(host)
    host.appctl("exit", "--cleanup")
    assert host.daemon.wait(PATIENCE) == 0
    assert not iface_types(host) & OURS


def test_a_key_has_them_taken_back_and_told_again(host) -> None:
    wait_told(host)
    host.switch.vsctl("set", "Open_vSwitch", ".", "external_ids:vhost-user-iface-types=false")
    wait_taken_back(host)
    host.switch.vsctl("set", "Open_vSwitch", ".", "external_ids:vhost-user-iface-types=true")
    wait_told(host)


def test_there_is_at_most_one_write_for_each_of_the_switch(host) -> None:
    wait_told(host)
    reconfigured, written = reconfigurations(host), writes(host)
    for number in range(10):
        host.switch.add_port(BRIDGE, f"in{number}", "type=internal")
    wait_told(host)
    # And ours are no reason for the switch to write: it ends.
    wait_until(lambda: writes_in(host, 2.0) == 0, "two seconds without a write")
    assert neutron_chooses_vhost_user(host)
    reconfigured, written = reconfigurations(host) - reconfigured, writes(host) - written
    # One that was looked at before the count began may be written in it.
    assert reconfigured >= 10 and 2 <= written <= 2 * (reconfigured + 1)


def reconfigurations(host) -> int:
    """How often ovs-vswitchd has looked at its configuration, after each of which it may write."""
    return int(host.switch.appctl("ovs-vswitchd", "coverage/read-counter", "bridge_reconfigure"))


def writes(host) -> int:
    """How many transactions have changed iface_types: each is a line of the database's file."""
    lines = host.switch.database.read_text().splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{")]
    rows = (row for record in records for row in record.get("Open_vSwitch", {}).values())
    return sum(row is not None and "iface_types" in row for row in rows)


def writes_in(host, seconds: float) -> int:
    before = writes(host)
    signal.sigtimedwait([], seconds)
    return writes(host) - before
