# SPDX-License-Identifier: Apache-2.0
"""A guest without eventfds: it kicks by messages, and messages call it and tell of broken rings."""

import pytest
from support.system.soft_ports import (
    SECONDS,
    check_inward,
    check_outward,
    frame_of,
    receive,
    settle,
)

from ovs_vhost_plugin.guest.soft import FEATURES, Config
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost.spec import VRING_STATE, BackendRequest, Feature, ProtocolFeature

pytestmark = pytest.mark.system

SIZES = range(60, 1515, 97)
PACKED = FEATURES | Feature.RING_PACKED.mask


@pytest.mark.parametrize("features", [FEATURES, PACKED], ids=["split", "packed"])
def test_frames_pass_and_a_stopped_ring_goes_on(port, features):
    guest = port.guest(Config(features=features, inband=True))
    assert guest.frontend.has(ProtocolFeature.INBAND_NOTIFICATIONS)
    check_inward(port, guest, SIZES)
    check_outward(port, guest, SIZES)
    bases = guest.stop_rings()
    for vring, base in zip(guest.vrings, bases, strict=True):
        guest.frontend.start_vring(vring, base)
        guest.frontend.kick(vring)
    settle(guest)
    port.wait_carrier()
    check_inward(port, guest, SIZES)
    check_outward(port, guest, SIZES)
    counters = port.counters()
    assert counters["rx_calls"] and counters["tx_kicks"]
    assert port.errors() == {}


def test_a_channel_that_comes_late_brings_what_was_to_be_told(port):
    guest = port.guest(Config(inband=True))
    check_inward(port, guest, SIZES)
    frame, packets = frame_of(100), port.counters()["rx_packets"]
    guest.frontend.channel.close()
    port.inject(frame)
    wait_until(lambda: port.counters()["rx_packets"] == packets + 1, "the frame")
    guest.frontend.open_channel()
    assert receive(guest, 1) == [frame]
    check_inward(port, guest, SIZES)
    assert port.errors() == {}


def test_a_broken_ring_is_told(port):
    guest = port.guest(Config(inband=True))
    queue = guest.pairs[0].tx.queue
    # virtio 1.2, 2.7.6: idx lies behind flags; it may not run ahead by more than the ring's size
    ahead = (queue.size + 1).to_bytes(2, "little")
    guest.memory.write(queue.avail_address + 2, ahead)
    guest.frontend.kick(guest.vrings[1])
    message = guest.frontend.channel.receive(SECONDS)
    assert message is not None and message.request == BackendRequest.VRING_ERR
    assert VRING_STATE.unpack(message.payload) == (1, 0)
    guest.frontend.channel.answer(message)
    wait_until(lambda: port.errors() == {"avail-jumps": 1}, "the fault's name")
