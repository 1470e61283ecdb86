# SPDX-License-Identifier: Apache-2.0
"""What the bridge does with a port, and what is said of it and done for its guest then."""

import pytest
from soft_ports import GUEST_MAC, SoftPort, check_outward

from ovs_vhost_plugin.guest.soft import Config

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
