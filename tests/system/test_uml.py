# SPDX-License-Identifier: Apache-2.0
"""User Mode Linux: a front-end that is nobody else's, in band, by the commands of docs/uml.md."""

import os
import signal

import pytest
from support.system.qemu_site import GUEST, GUEST_MAC, MIB, PEER, PEER_MAC, PORT, Site

from ovs_vhost_plugin.lab.guests import uml
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.vhost.spec import Feature, ProtocolFeature

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def site(require):
    words = packages.missing((*packages.SWITCH, *packages.UML))
    require(words is None, words)
    with Site() as made:
        yield made


@pytest.fixture
def guest(site):
    host, mac = site.host, f"external_ids:attached-mac={GUEST_MAC}"
    host.switch.add_port("br0", PORT, *uml.PORT_SETTINGS, mac)
    host.wait_status(PORT, "listening")
    settings = [f"address={GUEST}/24", f"neighbour={PEER},{PEER_MAC}"]
    path = host.directory / PORT
    with uml.UmlGuest(host.namespace, site.directory / "uml", path, settings) as running:
        host.wait_status(PORT, "running")
        yield running
    host.delete_port(PORT)


def test_it_boots_and_has_traffic_in_band_until_its_back_end_is_killed(site, guest):
    assert GUEST_MAC in guest.run("cat /sys/class/net/eth0/address")
    protocol = int(site.host.status(PORT)["protocol-features"], 16)
    assert protocol & ProtocolFeature.INBAND_NOTIFICATIONS.mask
    assert not site.features() & (Feature.CTRL_VQ.mask | Feature.RING_PACKED.mask)
    site.ping(56)
    site.ping(1472)
    guest.run(f"ping -c 3 {PEER}")
    for listens in (True, False):
        site.tcp(guest, 4 * MIB, guest_listens=listens)
    assert site.stats()["errors"] == {}
    killed = site.worker()
    os.kill(killed, signal.SIGKILL)
    site.host.wait_status(PORT, "listening")
    # Its driver does not connect again: the guest has lost its NIC, and lives on without.
    assert guest.run("echo alive") == "alive"
    assert guest.process.running
