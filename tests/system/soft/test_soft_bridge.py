# SPDX-License-Identifier: Apache-2.0
"""What the bridge does with a port, and what is said of it and done for its guest then."""

import json

import pytest
from support.system.soft_ports import GUEST_MAC, SoftPort, check_outward

from ovs_vhost_plugin.daemon.ovsdb.carriage import TAP_MTU_MAX
from ovs_vhost_plugin.guest.frontend.connection import BackEndError
from ovs_vhost_plugin.guest.soft import FEATURES, Config
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost.spec import Feature

pytestmark = pytest.mark.system


@pytest.fixture
def own_bridge(soft_host):
    soft_host.switch.add_bridge("br7")
    yield "br7"
    soft_host.switch.vsctl("del-br", "br7")


@pytest.fixture
def bridged(soft_host, own_bridge):
    with SoftPort(soft_host, bridge=own_bridge) as port:
        yield port


def test_running_is_not_said_of_a_port_whose_bridge_has_no_datapath(soft_host, own_bridge, bridged):
    """As with datapath_type=system where the kernel has no Open vSwitch."""
    guest = bridged.guest(Config(mac=GUEST_MAC))
    soft_host.wait_status(bridged.name, "running")
    vsctl = soft_host.switch.vsctl
    vsctl("set", "Bridge", own_bridge, "datapath_type=none-such")
    soft_host.wait_status(bridged.name, "error")
    assert bridged.published_error().startswith("bridge-cannot-carry: ")
    assert "none-such" in soft_host.appctl("vhost/show")
    vsctl("set", "Bridge", own_bridge, "datapath_type=netdev")
    soft_host.wait_status(bridged.name, "running")
    assert bridged.published_error() == ""
    check_outward(bridged, guest, [60, 1514])


def test_a_port_that_the_switch_cannot_open_says_so_before_there_is_a_guest(soft_host):
    soft_host.switch.vsctl("add-br", "br8", "--", "set", "Bridge", "br8", "datapath_type=none-such")
    try:
        with SoftPort(soft_host, bridge="br8") as port:
            port.wait_published("bridge-cannot-carry: ovs-vswitchd has given the port no number")
    finally:
        soft_host.switch.vsctl("del-br", "br8")


def test_an_mtu_that_the_tap_does_not_take_is_not_offered(plug):
    port = plug(settings=("mtu_request=9000",))
    set_mtu = ("set", "Interface", port.name)
    shown = json.loads(port.host.namespace.run("ip", "-d", "-json", "link", "show", port.name))
    assert shown[0]["max_mtu"] == TAP_MTU_MAX
    port.host.switch.vsctl(*set_mtu, f"mtu_request={TAP_MTU_MAX + 1}")
    port.wait_published(f"mtu-not-taken: mtu_request={TAP_MTU_MAX + 1}: ")
    (tap,) = json.loads(port.host.namespace.run("ip", "-json", "link", "show", port.name))
    guest = port.make_guest(Config(mac=GUEST_MAC, mtu=tap["mtu"] + 1))
    with pytest.raises(BackEndError):
        guest.start()
    guest.close()
    port.guest(Config(mac=GUEST_MAC, mtu=tap["mtu"], features=FEATURES | Feature.MTU.mask))
    port.host.wait_status(port.name, "running")
    assert port.published_error().startswith("mtu-not-taken: ")
    port.host.switch.vsctl(*set_mtu, f"mtu_request={TAP_MTU_MAX}")
    wait_until(lambda: port.published_error() == "", "the tap takes it")
