# SPDX-License-Identifier: Apache-2.0
"""RESET_DEVICE on a real worker: all stops, the memory stays, and the next driver begins anew."""

import pytest
from support.system.soft_ports import check_inward, check_outward, settle

from ovs_vhost_plugin.guest.soft import FEATURES, Config
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost.spec import Feature, FrontendRequest

pytestmark = pytest.mark.system

SIZES = range(60, 1515, 97)


@pytest.mark.parametrize("logs", [False, True], ids=["running", "migrating"])
def test_a_guest_that_resets_its_nic_goes_on_in_the_memory_that_is_there(port, logs):
    config = Config()
    guest = port.guest(config)
    frontend = guest.frontend
    check_outward(port, guest, SIZES)
    if logs:
        frontend.set_features(FEATURES | Feature.LOG_ALL.mask)
    frontend.connection.tell(FrontendRequest.RESET_DEVICE, ack=True)
    wait_until(lambda: not port.carrier, "the carrier's end")  # and nothing is held for it
    frontend.set_features(FEATURES)
    for vring in guest.vrings:
        frontend.enable_vring(vring.index, True)
        frontend.start_vring(vring, vring.queue.used_index)
        vring.kick.signal()
    settle(guest)
    port.wait_carrier()
    check_inward(port, guest, SIZES)
    check_outward(port, guest, SIZES)
    assert port.errors() == {}
