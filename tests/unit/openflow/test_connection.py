# SPDX-License-Identifier: Apache-2.0
import struct

import pytest

from ovs_vhost_plugin.openflow import wire
from ovs_vhost_plugin.openflow.connection import ANSWER_TIMEOUT, BridgeConnection, Done
from ovs_vhost_plugin.openflow.wire import OpenFlowError, Output

FRAME = bytes(60)
HELLO = struct.pack("!BBHIHHI", 4, 0, 16, 1, 1, 8, 1 << 4)


@pytest.fixture
def connection(peer):
    connection = BridgeConnection(str(peer.path))
    connection.run(0.0)
    peer.accept()
    assert peer.receive()[:2] == bytes([6, wire.MessageType.HELLO])
    assert connection.obstacle == "negotiating"
    peer.send(HELLO)
    assert connection.run(0.0) == []
    assert connection.obstacle is None
    yield connection
    connection.close()


def send(connection, peer, now=0.0):
    """Send a packet-out; return its xid and its barrier's as the peer saw them."""
    xid = connection.packet_outs(3, [FRAME], Output.TABLE, now)
    assert connection.run(now) == []
    packet_out, barrier = wire.Framer().feed(peer.receive())
    assert (packet_out.type, packet_out.xid, barrier.type) == (13, xid, 20)
    return xid, barrier.xid


def test_a_packet_out_is_delivered_when_its_barrier_is_answered(connection, peer):
    xid, barrier = send(connection, peer)
    peer.send(wire.encode(4, 21, barrier))
    assert connection.run(0.1) == [Done(xid, 1)]


def test_an_error_before_the_barriers_reply_is_the_packet_outs(connection, peer):
    xid, barrier = send(connection, peer)
    error = wire.encode(4, 1, xid, struct.pack("!HH", 1, 11))
    peer.send(error + wire.encode(4, 21, barrier))
    assert connection.run(0.1) == [Done(xid, 1, ("BAD_REQUEST/BAD_PORT",))]
    second, barrier = send(connection, peer)
    peer.send(wire.encode(4, 21, barrier))
    assert connection.run(0.1) == [Done(second, 1)]


def test_answers_to_nothing_are_passed_over(connection, peer):
    error = wire.encode(4, 1, 999, struct.pack("!HH", 1, 11))
    peer.send(error + wire.encode(4, 21, 999))
    assert connection.run(0.1) == []
    assert connection.obstacle is None


def test_echo_keeps_the_connection_alive(connection, peer):
    peer.send(wire.encode(4, 2, 5, b"probe"))
    connection.run(0.1)
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
def test_what_was_under_way_when_the_connection_broke_is_lost(connection, peer, break_it, reason):
    xid, _ = send(connection, peer)
    break_it(peer)
    assert connection.run(0.1) == [Done(xid, 1, lost=reason)]
    assert connection.obstacle == reason
    with pytest.raises(OpenFlowError, match=f"not-negotiated: {reason}"):
        connection.packet_outs(3, [FRAME], Output.TABLE, 0.1)


def test_it_comes_back_with_a_new_session(connection, peer):
    peer.hang_up()
    connection.run(0.0)
    assert connection.obstacle == "closed by the peer"
    connection.run(1.0)
    peer.accept()
    assert peer.receive()[1] == wire.MessageType.HELLO
    peer.send(HELLO)
    connection.run(1.0)
    xid, barrier = send(connection, peer, 1.0)
    peer.send(wire.encode(4, 21, barrier))
    assert connection.run(1.0) == [Done(xid, 1)]


def test_a_switch_that_never_answers_the_barrier_is_given_up(connection, peer, notes):
    xid, _ = send(connection, peer, 5.0)
    connection.wait(notes)
    assert notes.times == [(5.0 + ANSWER_TIMEOUT) * 1e3]
    assert connection.run(5.0 + ANSWER_TIMEOUT) == [Done(xid, 1, lost="no barrier reply")]


def test_a_switch_that_never_says_hello_is_given_up(peer, notes):
    connection = BridgeConnection(str(peer.path))
    connection.run(5.0)
    connection.wait(notes)
    assert notes.times == [(5.0 + ANSWER_TIMEOUT) * 1e3]
    connection.run(5.0 + ANSWER_TIMEOUT)
    assert connection.obstacle == "no HELLO"


def test_an_idle_connection_wakes_nobody(connection, notes):
    connection.wait(notes)
    assert len(notes.events) == 1
    assert notes.times == []


def test_close_says_what_is_lost(connection, peer):
    xid, _ = send(connection, peer)
    assert connection.close() == [Done(xid, 1, lost="closed")]


def batch(connection, peer, *ports):
    """Send a frame to each port; the messages as the peer saw them."""
    connection.packets_to([(FRAME, port) for port in ports], 0.0)
    assert connection.run(0.0) == [] and not connection.idle
    return wire.Framer().feed(peer.receive())


def test_a_batch_is_done_when_its_barrier_is_answered_and_counts_what_was_refused(connection, peer):
    assert connection.idle
    first, second, third, barrier = batch(connection, peer, 1, 2, 3)
    refusals = [wire.encode(4, 1, one.xid, struct.pack("!HH", 2, 4)) for one in (first, third)]
    peer.send(b"".join(refusals))
    assert connection.run(0.1) == [], "the second may be refused yet"
    peer.send(wire.encode(4, 21, barrier.xid))
    names = ("BAD_ACTION/BAD_OUT_PORT",) * 2
    assert connection.run(0.1) == [Done(first.xid, 3, names)]
    assert connection.idle and second.type == third.type == 13


def test_a_barrier_that_is_refused_tells_nothing_of_the_frames(connection, peer):
    out, barrier = batch(connection, peer, 1)
    peer.send(wire.encode(4, 1, barrier.xid, struct.pack("!HH", 1, 1)))
    assert connection.run(0.1) == [Done(out.xid, 1, lost="BAD_REQUEST/BAD_TYPE")]


def test_an_answer_that_is_there_counts_however_late_it_is_read(connection, peer):
    out, barrier = batch(connection, peer, 1)
    peer.send(wire.encode(4, 21, barrier.xid))
    assert connection.run(2 * ANSWER_TIMEOUT) == [Done(out.xid, 1)]
