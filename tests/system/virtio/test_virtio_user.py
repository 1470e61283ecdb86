# SPDX-License-Identifier: Apache-2.0
"""DPDK's virtio-user on our ports, across a real bridge; what arrives is compared, not counted."""

import os
import signal

import pytest
from support.system.virtio_grid import MAC
from support.system.virtio_site import (
    SECONDS,
    check_what_testpmd_gives_back,
    check_what_testpmd_sends,
)

from ovs_vhost_plugin.lab.guests.virtiouser import VirtioUserConfig
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost.spec import ProtocolFeature

pytestmark = pytest.mark.system


@pytest.mark.parametrize("mode", ["client", "server"])
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_jumbo_frames_pass_whole_both_ways(packed, mode, peer, plug):
    made = plug(mode, VirtioUserConfig(MAC, queue_size=512, packed=packed, mtu=9000))
    acknowledged = int(made.told()["protocol-features"], 16)
    for bit in (ProtocolFeature.REPLY_ACK, ProtocolFeature.STATUS):
        assert acknowledged & bit.mask, bit.name
    check_what_testpmd_sends(made, peer)
    check_what_testpmd_gives_back(made, peer, 160)
    assert made.stats()["errors"] == {}


def test_as_many_queue_pairs_as_virtio_user_has(peer, plug):
    made = plug("server", VirtioUserConfig(MAC, queues=8))
    check_what_testpmd_sends(made, peer)
    check_what_testpmd_gives_back(made, peer, 320)
    pairs = made.stats()["queue_pairs"]
    assert len(pairs) == 8
    assert all(pair["rx_packets"] > 10 and pair["tx_packets"] > 10 for pair in pairs)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_virtio_user_as_server_takes_the_worker_that_comes_after_a_killed_one(packed, peer, plug):
    """Its packed rings begin anew, as it does not know either where they stood."""
    made = plug("client", VirtioUserConfig(MAC, queue_size=256, packed=packed))
    check_what_testpmd_gives_back(made, peer, 160)
    killed = made.worker
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: made.worker != killed, "another")
    wait_until(lambda: made.stats().get("status") == "running", "the rings run again", SECONDS)
    made.host.wait_carrier(made.port)
    check_what_testpmd_gives_back(made, peer, 160)
    check_what_testpmd_sends(made, peer)
