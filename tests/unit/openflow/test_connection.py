# SPDX-License-Identifier: Apache-2.0
import struct

import pytest

from ovs_vhost_plugin.openflow import wire
from ovs_vhost_plugin.openflow.connection import ANSWER_TIMEOUT, Channel, Delivered, Lost, Refused
from ovs_vhost_plugin.openflow.wire import OpenFlowError, Output

FRAME = bytes(60)
HELLO = struct.pack("!BBHIHHI", 4, 0, 16, 1, 1, 8, 1 << 4)


@pytest.fixture
def channel(peer):
    channel = Channel(str(peer.path))
    channel.run(0.0)
    peer.accept()
    assert peer.receive()[:2] == bytes([6, wire.MessageType.HELLO])
    assert channel.obstacle == "negotiating"
    peer.send(HELLO)
    assert channel.run(0.0) == []
    assert channel.obstacle is None
    yield channel
    channel.close()


def send(channel, peer, now=0.0):
    """Send a packet-out; return its xid and its barrier's as the peer saw them."""
    xid = channel.packet_outs(3, [FRAME], Output.TABLE, now)
    assert channel.run(now) == []
    packet_out, barrier = wire.Framer().feed(peer.receive())
    assert (packet_out.type, packet_out.xid, barrier.type) == (13, xid, 20)
    return xid, barrier.xid


def test_a_packet_out_is_delivered_when_its_barrier_is_answered(channel, peer):
    xid, barrier = send(channel, peer)
    peer.send(wire.encode(4, 21, barrier))
    assert channel.run(0.1) == [Delivered(xid)]


def test_an_error_before_the_barriers_reply_is_the_packet_outs(channel, peer):
    xid, barrier = send(channel, peer)
    error = wire.encode(4, 1, xid, struct.pack("!HH", 1, 11))
    peer.send(error + wire.encode(4, 21, barrier))
    assert channel.run(0.1) == [Refused(xid, "BAD_REQUEST/BAD_PORT")]
    second, barrier = send(channel, peer)
    peer.send(wire.encode(4, 21, barrier))
    assert channel.run(0.1) == [Delivered(second)]


def test_answers_to_nothing_are_passed_over(channel, peer):
    error = wire.encode(4, 1, 999, struct.pack("!HH", 1, 11))
    peer.send(error + wire.encode(4, 21, 999))
    assert channel.run(0.1) == []
    assert channel.obstacle is None


def test_echo_keeps_the_connection_alive(channel, peer):
    peer.send(wire.encode(4, 2, 5, b"probe"))
    channel.run(0.1)
    assert peer.receive() == wire.encode(4, 3, 5, b"probe")


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda peer: peer.hang_up(), "closed by the peer"),
        (lambda peer: peer.send(b"\4\x15\0\1\0\0\0\0"), "message-length: 1"),
        (lambda peer: peer.send(wire.encode(9, 21, 2)), "message-version: 9"),
    ],
    ids=["end", "length", "version"],
)
def test_what_was_under_way_when_the_connection_broke_is_lost(channel, peer, break_it, reason):
    xid, _ = send(channel, peer)
    break_it(peer)
    assert channel.run(0.1) == [Lost(xid, reason)]
    assert channel.obstacle == reason
    with pytest.raises(OpenFlowError, match=f"not-negotiated: {reason}"):
        channel.packet_outs(3, [FRAME], Output.TABLE, 0.1)


def test_it_comes_back_with_a_new_session(channel, peer):
    peer.hang_up()
    channel.run(0.0)
    assert channel.obstacle == "closed by the peer"
    channel.run(1.0)
    peer.accept()
    assert peer.receive()[1] == wire.MessageType.HELLO
    peer.send(HELLO)
    channel.run(1.0)
    xid, barrier = send(channel, peer, 1.0)
    peer.send(wire.encode(4, 21, barrier))
    assert channel.run(1.0) == [Delivered(xid)]


def test_a_switch_that_never_answers_the_barrier_is_given_up(channel, peer, notes):
    xid, _ = send(channel, peer, 5.0)
    channel.wait(notes)
    assert notes.times == [(5.0 + ANSWER_TIMEOUT) * 1e3]
    assert channel.run(5.0 + ANSWER_TIMEOUT) == [Lost(xid, "no barrier reply")]


def test_a_switch_that_never_says_hello_is_given_up(peer, notes):
    channel = Channel(str(peer.path))
    channel.run(5.0)
    channel.wait(notes)
    assert notes.times == [(5.0 + ANSWER_TIMEOUT) * 1e3]
    channel.run(5.0 + ANSWER_TIMEOUT)
    assert channel.obstacle == "no HELLO"


def test_an_idle_channel_wakes_nobody(channel, notes):
    channel.wait(notes)
    assert len(notes.events) == 1
    assert notes.times == []


def test_close_says_what_is_lost(channel, peer):
    xid, _ = send(channel, peer)
    assert channel.close() == [Lost(xid, "closed")]
