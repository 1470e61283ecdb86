# SPDX-License-Identifier: Apache-2.0
"""A front-end that asks for the NIC's configuration, and is told when the bridge's port changes."""

import struct

import pytest
from support.system.soft_ports import GUEST_MAC, SECONDS

from ovs_vhost_plugin.guest.soft import Config
from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.vhost.spec import BackendRequest, ProtocolFeature

pytestmark = pytest.mark.system

KEYS = (
    "external_ids:vhost-user-config=true",
    f"external_ids:attached-mac={GUEST_MAC.hex(':')}",
    "mtu_request=1500",
)


def configuration(guest):
    """MAC, whether the link is up, queue pairs, MTU (virtio 1.2, 5.1.4)."""
    return struct.unpack("<6sHHH", guest.frontend.get_config(0, 12))


def changed(guest):
    message = guest.frontend.channel.receive(SECONDS)
    assert message is not None and message.request == BackendRequest.CONFIG_CHANGE_MSG
    guest.frontend.channel.answer(message)


def is_told(guest, *expected):
    """Read the configuration at each change that the guest is told of, until it is as expected.

    Of a new port the switch may first say that it is down, and then that it is up.
    """
    changed(guest)
    while configuration(guest) != expected:
        changed(guest)


def test_a_guest_is_told_when_the_port_goes_down_and_of_another_mtu(plug):
    port = plug(queues=2, settings=KEYS)
    ports = port.host.switch
    guest = port.guest(Config())
    assert guest.frontend.has(ProtocolFeature.CONFIG)
    while configuration(guest) != (GUEST_MAC, 1, 2, 1500):
        changed(guest)
    for word, link in (("down", 0), ("up", 1)):
        ports.ofctl("mod-port", str(port.host.directory / f"{BRIDGE}.mgmt"), port.name, word)
        is_told(guest, GUEST_MAC, link, 2, 1500)
    ports.vsctl("set", "Interface", port.name, "mtu_request=1400")
    is_told(guest, GUEST_MAC, 1, 2, 1400)  # its driver has not acknowledged VIRTIO_NET_F_MTU
    assert port.errors() == {}


def test_it_is_offered_only_where_it_was_asked_for(port):
    guest = port.guest(Config())
    assert not guest.frontend.has(ProtocolFeature.CONFIG)
    assert guest.frontend.get_config(0, 6) == b""
    assert port.errors() == {"protocol-feature-missing": 1}
