# SPDX-License-Identifier: Apache-2.0
"""Batches of packet-outs to a bridge that the test plays."""

import pytest

from ovs_vhost_plugin.forward.batches import Batch, ParcelService
from ovs_vhost_plugin.openflow import wire
from ovs_vhost_plugin.openflow.connection import ANSWER_TIMEOUT
from ovs_vhost_plugin.openflow.wire import ALL_VERSIONS, MessageType

FRAME = bytes(60)
LATE = 2 * ANSWER_TIMEOUT


@pytest.fixture
def service(peer):
    service = ParcelService(str(peer.path))
    yield service
    service.close()


def connected(service, peer) -> wire.Version:
    assert service.run(0.0) is None
    peer.accept()
    peer.receive()
    peer.send(wire.hello(ALL_VERSIONS, 1))
    assert service.run(0.0) is None and service.ready
    return max(ALL_VERSIONS)


def sent(service, peer) -> wire.Message:
    """The barrier request behind a batch that has just been sent."""
    service.send([(FRAME, 1)], 0.0)
    assert service.run(0.0) is None
    messages = wire.Framer().feed(peer.receive())
    out, barrier = list(messages)
    assert out.type == MessageType.PACKET_OUT
    return barrier


def test_an_answer_that_is_there_counts_however_late_it_is_read(service, peer):
    version = connected(service, peer)
    barrier = sent(service, peer)
    peer.send(wire.encode(version, barrier.type + 1, barrier.xid))
    assert service.run(LATE) == Batch(1)
    assert service.ready


def test_a_switch_that_does_not_answer_loses_the_batch(service, peer):
    connected(service, peer)
    sent(service, peer)
    assert service.run(LATE) == Batch(1, lost="no answer")
    assert not service.ready
