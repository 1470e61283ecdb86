# SPDX-License-Identifier: Apache-2.0
"""Open vSwitch: taps as ports of a userspace bridge, and what its database says of them."""

import fcntl
import socket
import struct
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from docs.platform.kit import (
    IFF_MULTI_QUEUE,
    IFF_NO_CARRIER,
    TUNSETCARRIER,
    Tap,
    frame,
    number_of,
    up,
)
from ovs_vhost_plugin.lab import process
from ovs_vhost_plugin.lab.hosts.namespace import Namespace, scratch_directory
from ovs_vhost_plugin.lab.hosts.switch import PrivateSwitch
from ovs_vhost_plugin.lab.process import wait_until

BRIDGE = "br0"
DPDK = "dpdkvhostuserclient"


@pytest.fixture(scope="module")
def place() -> Iterator[Namespace]:
    with Namespace("platform") as made, made.entered():
        yield made


@pytest.fixture(scope="module")
def switch(place: Namespace) -> Iterator[PrivateSwitch]:
    with PrivateSwitch(place, scratch_directory()) as made:
        made.add_bridge(BRIDGE)
        yield made


@pytest.fixture
def ports(switch: PrivateSwitch) -> Iterator[SimpleNamespace]:
    """A guest's port and a peer's, whose taps are persistent."""
    taps = {name: Tap(name).persist() for name in ("guest", "peer")}
    for name in taps:
        up(switch.namespace, name)
        switch.add_port(BRIDGE, name)
        number(switch, name)
    made = SimpleNamespace(**taps)
    yield made
    remove(switch, *taps)
    for tap in vars(made).values():
        tap.close()


def remove(switch, *names):
    for name in names:
        switch.vsctl("--if-exists", "del-port", name)
        switch.namespace.run("ip", "link", "del", name, check=False)


def number(switch, name):
    """The OpenFlow number of a port, once it has one."""
    return wait_until(lambda: switch.ofport(name), f"the number of {name}")


def passes(sender, receiver, what=7):
    """Whether a frame that is sent now and then comes out of another tap."""

    def tried():
        sender.send(frame(what))
        return any(number_of(data) == what for data in receiver.frames() if data[12:14] == KIND)

    return wait_until(tried, "a frame's way through the bridge")


KIND = frame()[12:14]


def reconfigures(switch):
    return int(switch.appctl("ovs-vswitchd", "coverage/read-counter", "bridge_reconfigure"))


# -- a port's life --------------------------------------------------------------------------------


def test_a_port_has_its_number_before_its_guest_is_there(switch):
    """OVN and Neutron wait for it. The tap is there, nobody reads it, and its carrier is down."""
    tap = Tap("early", IFF_MULTI_QUEUE | IFF_NO_CARRIER).persist()
    tap.point(TUNSETCARRIER, 0)
    tap.close()
    up(switch.namespace, "early")
    switch.add_port(BRIDGE, "early")
    assert number(switch, "early") >= 1
    assert switch.interface("early", "link_state") == "down"
    remove(switch, "early")


def test_a_port_whose_tap_comes_later_heals_by_itself(switch):
    switch.add_port(BRIDGE, "late")
    assert switch.interface("late", "ofport") == "-1"
    assert switch.interface("late", "error")
    switch.namespace.tap("late")
    number(switch, "late")
    wait_until(lambda: not switch.interface("late", "error"), "the error's end")
    remove(switch, "late")


def test_link_state_follows_the_carrier(switch, ports):
    for carrier, state in ((0, "down"), (1, "up")):
        ports.guest.point(TUNSETCARRIER, carrier)
        switch.wait_until("Interface", "guest", f"link_state={state}")


def test_mtu_request_sets_the_tap_s_mtu(switch, ports):
    switch.vsctl("set", "Interface", "guest", "mtu_request=9000")
    switch.wait_until("Interface", "guest", "mtu=9000")
    assert "mtu 9000" in switch.namespace.run("ip", "link", "show", "guest")


def test_a_persistent_tap_whose_queue_is_opened_anew_is_the_same_port(switch, ports):
    before = number(switch, "guest")
    ports.guest.close()
    ports.guest = Tap("guest")
    assert passes(ports.guest, ports.peer) and passes(ports.peer, ports.guest)
    assert number(switch, "guest") == before


def test_a_tap_that_is_opened_by_the_switch_is_promiscuous(switch):
    tap = Tap("prom")
    assert not flags("prom") & 0x100  # IFF_PROMISC
    switch.add_port(BRIDGE, "prom")
    wait_until(lambda: flags("prom") & 0x100, "the switch to open it")
    remove(switch, "prom")
    tap.close()


def flags(name):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        answer = fcntl.ioctl(probe, 0x8913, struct.pack("=16sH22x", name.encode(), 0))
    return struct.unpack_from("=16xH", answer)[0]


def test_a_tap_that_is_made_again_is_deaf_until_its_port_is_taken_out_of_the_datapath(
    switch, ports
):
    """The switch's packet socket stays on the interface that has gone; the database shows nothing.

    `dpctl/del-if` and any event of a link have the port opened again, with its number.
    """
    before = number(switch, "guest")
    switch.namespace.run("ip", "link", "del", "guest")
    ports.guest.close()
    ports.guest = Tap("guest").persist()
    up(switch.namespace, "guest")
    assert passes(ports.peer, ports.guest), "towards the guest all is well"
    ports.guest.send(frame(1))
    ports.peer.send(frame(2))
    assert passes(ports.peer, ports.guest, 2)  # later than what was sent before
    assert not [data for data in ports.peer.frames() if data[12:14] == KIND]
    assert switch.interface("guest", "error") == "" and number(switch, "guest") == before
    switch.appctl("ovs-vswitchd", "dpctl/del-if", "netdev@ovs-netdev", "guest")
    for state in ("on", "off"):
        switch.namespace.run("ip", "link", "set", "guest", "allmulticast", state)
    assert passes(ports.guest, ports.peer)
    assert number(switch, "guest") == before


def test_statistics_of_a_port_are_the_switch_s_so_received_is_from_the_guest(switch, ports):
    passes(ports.guest, ports.peer)
    switch.vsctl("set", "Open_vSwitch", ".", "other_config:stats-update-interval=5000")

    def received():
        return int(switch.interface("guest", "statistics:rx_packets") or 0)

    wait_until(received, "the port's statistics")


# -- what the host's own stack hears --------------------------------------------------------------


def test_policing_fails_where_somebody_else_has_a_clsact_qdisc(switch, ports):
    """So the host's stack is kept out by nftables, and not by tc."""
    switch.namespace.run("tc", "qdisc", "add", "dev", "guest", "clsact")
    switch.vsctl("set", "Interface", "guest", "ingress_policing_rate=1000")
    log = switch.directory / "ovs-vswitchd.log"
    wait_until(lambda: "guest: adding policing qdisc failed" in log.read_text(), "its log")


# -- the database ---------------------------------------------------------------------------------


def test_external_ids_wake_no_reconfigure_and_other_config_does(switch, ports):
    # ovs-vsctl(8): it has the switch reconfigure and waits for that, unless --no-wait.
    switch.vsctl("set", "Interface", "guest", "external_ids:a=1")
    before = reconfigures(switch)
    for value in range(10):
        switch.vsctl("--no-wait", "set", "Interface", "guest", f"external_ids:a={value}")
    switch.vsctl("set", "Interface", "guest", "external_ids:a=1")
    assert reconfigures(switch) == before + 1
    switch.vsctl("--no-wait", "set", "Interface", "guest", "other_config:a=1")
    wait_until(lambda: reconfigures(switch) > before + 1, "a reconfigure")


def test_a_type_of_dpdk_s_is_an_error_and_clearing_it_heals_the_port(switch):
    Tap("dpdk").persist().close()
    up(switch.namespace, "dpdk")
    path = "options:vhost-server-path=/nowhere"
    switch.add_port(BRIDGE, "dpdk", f"type={DPDK}", path)
    assert switch.interface("dpdk", "ofport") == "-1"
    assert "not supported" in switch.interface("dpdk", "error")
    switch.vsctl("set", "Interface", "dpdk", 'type=""')
    number(switch, "dpdk")
    assert switch.interface("dpdk", "options:vhost-server-path") == "/nowhere"
    assert switch.interface("dpdk", "error") == ""
    remove(switch, "dpdk")


def test_a_change_is_a_warning_for_each_system_interface_with_an_option(switch, ports):
    log = switch.directory / "ovs-vswitchd.log"
    about = "guest: arguments provided to device that is not configurable"

    def warnings() -> int:
        before = log.read_text().count(about)
        switch.vsctl("set", "Open_vSwitch", ".", "other_config:a=2")
        switch.vsctl("remove", "Open_vSwitch", ".", "other_config", "a")
        return log.read_text().count(about) - before

    assert warnings() == 0
    switch.vsctl("set", "Interface", "guest", "options:vhost-server-path=/nowhere")
    wait_until(lambda: warnings() >= 1, "warnings")
    switch.vsctl("clear", "Interface", "guest", "options")
    assert warnings() == 0


def test_a_switch_without_dpdk_has_none_of_its_types(switch):
    types = switch.vsctl("get", "Open_vSwitch", ".", "iface_types")
    assert "tap" in types and DPDK not in types


def test_iface_types_is_written_anew_with_the_next_reconfigure(switch):
    switch.vsctl("add", "Open_vSwitch", ".", "iface_types", DPDK)
    switch.vsctl("set", "Open_vSwitch", ".", "other_config:a=1")
    wait_until(
        lambda: DPDK not in switch.vsctl("get", "Open_vSwitch", ".", "iface_types"),
        "the switch's own list",
    )


def test_a_lock_keeps_a_second_daemon_out_until_the_first_has_gone(switch, tmp_path):
    first = lock_holder(switch, tmp_path / "first")
    wait_until(lambda: '"locked":true' in first.output.read_text(), "the lock")
    second = lock_holder(switch, tmp_path / "second")
    wait_until(lambda: '"locked":false' in second.output.read_text(), "the second's answer")
    refused = second.output.read_text()
    first.kill()
    wait_until(lambda: second.output.read_text() != refused, "its turn")
    second.kill()
    assert second.output.read_text().removeprefix(refused).startswith("locked")


def lock_holder(switch, output):
    return process.Process(["ovsdb-client", "lock", switch.db, "platform_test"], output)


def test_the_control_socket_carries_the_pid_of_the_pidfile(switch):
    pid = int((switch.directory / "ovs-vswitchd.pid").read_text())
    assert pid == switch.vswitchd.pid
    path = switch.directory / f"ovs-vswitchd.{pid}.ctl"
    assert path.is_socket() and path.stat().st_mode & 0o007 == 0


def test_a_row_of_a_port_that_is_deleted_and_added_at_once_keeps_the_tap(switch, ports):
    switch.vsctl("del-port", "guest", "--", "add-port", BRIDGE, "guest")
    number(switch, "guest")
    assert passes(ports.guest, ports.peer)
