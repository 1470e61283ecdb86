# SPDX-License-Identifier: Apache-2.0
"""The socket: hostile inputs 9, 12, 13, 15, 67-69."""

import array
import os
import resource
import select
import socket

import pytest

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.message import Message, encode
from ovs_vhost_plugin.vhost.transport import Connection, ConnectionClosed

REQUEST = Message(spec.FrontendRequest.SET_OWNER)


@pytest.fixture
def pair():
    """The back-end's connection, and the front-end's bare socket."""
    ours, theirs = socket.socketpair()
    connection = Connection(ours)
    yield connection, theirs
    connection.close()
    theirs.close()


def send_fds(sock, data, count):
    """Send `data` with `count` fresh fds; the copies on this side are closed."""
    fds = [os.eventfd(0) for _ in range(count)]
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())])
    for fd in fds:
        os.close(fd)


def readable(connection):
    return bool(select.select([connection], [], [], 0)[0])


def close_all(messages):
    for message in messages:
        for fd in message.fds:
            os.close(fd)


def test_nothing_there(pair):
    connection, _ = pair
    assert list(connection.receive()) == []


def test_messages_that_came_together_are_told_apart(pair):
    connection, theirs = pair
    other = Message(9, b"payload")
    theirs.sendall(encode(REQUEST) + encode(other) + encode(REQUEST))
    assert list(connection.receive()) == [REQUEST, other, REQUEST]


def test_each_message_gets_its_own_fds(pair):
    connection, theirs = pair
    theirs.sendall(encode(REQUEST))
    send_fds(theirs, encode(Message(5, b"12345678")), 8)
    theirs.sendall(encode(REQUEST))
    send_fds(theirs, encode(Message(12, b"12345678")), 1)
    messages = list(connection.receive())
    assert [len(message.fds) for message in messages] == [0, 8, 0, 1]
    close_all(messages)


def test_fds_are_not_inherited(pair):
    connection, theirs = pair
    send_fds(theirs, encode(REQUEST), 1)
    (message,) = list(connection.receive())
    assert not os.get_inheritable(message.fds[0])
    close_all([message])


def test_half_a_message_waits(pair):
    connection, theirs = pair
    data = encode(Message(9, b"12345678"))
    for byte in data[:-1]:
        theirs.sendall(bytes([byte]))
        assert list(connection.receive()) == []
    theirs.sendall(data[-1:])
    assert list(connection.receive()) == [Message(9, b"12345678")]


def test_half_a_message_with_fds_leaks_none_when_the_peer_goes(pair):
    connection, theirs = pair
    send_fds(theirs, encode(REQUEST)[:5], 3)
    assert list(connection.receive()) == []
    theirs.close()
    with pytest.raises(ConnectionClosed):
        list(connection.receive())


def test_more_than_eight_fds(pair):
    connection, theirs = pair
    send_fds(theirs, encode(REQUEST), 9)
    with pytest.raises(PeerError) as caught:
        list(connection.receive())
    assert caught.value.name == PeerErrorName.FDS_TOO_MANY


def test_a_flood_of_fds(pair):
    connection, theirs = pair
    send_fds(theirs, encode(REQUEST), 253)
    with pytest.raises(PeerError) as caught:
        list(connection.receive())
    assert caught.value.name == PeerErrorName.FDS_TOO_MANY


def test_a_flood_of_fds_byte_by_byte(pair):
    connection, theirs = pair
    for byte in encode(REQUEST)[:3]:
        send_fds(theirs, bytes([byte]), 4)
    with pytest.raises(PeerError) as caught:
        list(connection.receive())
    assert caught.value.name == PeerErrorName.FDS_TOO_MANY


def test_fds_that_this_process_has_no_room_for(pair):
    connection, theirs = pair
    send_fds(theirs, encode(REQUEST), 4)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 2, hard))
    try:
        with pytest.raises(PeerError) as caught:
            list(connection.receive())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.name == PeerErrorName.FDS_TRUNCATED


def test_messages_before_a_broken_one_are_handed_out_first(pair):
    connection, theirs = pair
    theirs.sendall(encode(REQUEST) + bytes(12) + encode(REQUEST))
    received = connection.receive()
    assert next(received) == REQUEST
    with pytest.raises(PeerError) as caught:
        next(received)
    assert caught.value.name == PeerErrorName.HEADER_VERSION
    with pytest.raises(PeerError):  # and nothing is understood after it
        list(connection.receive())


def test_messages_before_the_end_are_handed_out_first(pair):
    connection, theirs = pair
    theirs.sendall(encode(REQUEST))
    theirs.close()
    received = connection.receive()
    assert next(received) == REQUEST
    with pytest.raises(ConnectionClosed):
        next(received)


def test_a_reader_that_stops_in_the_middle_has_nothing_to_clean_up(pair):
    connection, theirs = pair
    theirs.sendall(encode(REQUEST))
    send_fds(theirs, encode(REQUEST), 2)
    assert next(connection.receive()) == REQUEST


def test_a_busy_peer_does_not_keep_the_reader(pair):
    connection, theirs = pair
    theirs.sendall(encode(REQUEST) * 100)
    rounds = []
    while readable(connection):
        rounds.append(len(list(connection.receive())))
    assert sum(rounds) == 100
    assert max(rounds) < 100


def test_send(pair):
    connection, theirs = pair
    connection.send(REQUEST)
    assert theirs.recv(100) == encode(REQUEST)
    assert not connection.wants_write


def test_send_with_fds_and_replies(pair):
    connection, theirs = pair
    front_end = Connection(theirs, replies=True)
    fd = os.eventfd(0)
    connection.send(Message(28, flags=0x5, fds=(fd,)))
    os.close(fd)
    (reply,) = list(front_end.receive())
    assert (reply.request, len(reply.fds)) == (28, 1)
    close_all([reply])


def test_fds_that_are_not_read_are_bounded_and_closed(pair):
    """Those that wait are copies: the caller may close its own, or make others of that number."""
    connection, _silent = pair
    filler = Message(1, bytes(4000), 0x5)
    while not connection.wants_write:
        connection.send(filler)
    with pytest.raises(PeerError) as caught:
        for _ in range(1000):
            fd = os.eventfd(0)
            try:
                connection.send(Message(28, flags=0x5, fds=(fd,)))
            finally:
                os.close(fd)
    assert caught.value.name == PeerErrorName.REPLIES_NOT_READ
    assert "fds" in caught.value.detail


def test_an_fd_that_waited_arrives(pair):
    connection, theirs = pair
    filler = Message(1, bytes(4000), 0x5)
    while not connection.wants_write:
        connection.send(filler)
    fd = os.eventfd(7)
    connection.send(Message(28, flags=0x5, fds=(fd,)))
    os.close(fd)
    front_end = Connection(theirs, replies=True)
    got = []
    while not got or got[-1].request != 28:
        got += list(front_end.receive())
        connection.flush()
    assert os.eventfd_read(got[-1].fds[0]) == 7
    close_all(got)


def test_a_peer_that_never_reads_is_cut_off(pair):
    connection, _silent = pair
    reply = Message(1, bytes(8), 0x5)
    sent = 0
    with pytest.raises(PeerError) as caught:
        while sent < 10_000_000:
            connection.send(reply)
            sent += 1
    assert caught.value.name == PeerErrorName.REPLIES_NOT_READ
    assert connection.wants_write


def test_what_was_kept_arrives_whole_and_in_order(pair):
    connection, theirs = pair
    replies = [Message(n, bytes(4000), 0x5) for n in range(200)]
    sent = 0
    while not connection.wants_write:
        connection.send(replies[sent])
        sent += 1
    front_end = Connection(theirs, replies=True)
    got = []
    while len(got) < sent:
        got += list(front_end.receive())
        connection.flush()
    assert got == replies[:sent]
    assert not connection.wants_write


class StingySocket(socket.socket):
    """Takes five bytes at a time."""

    def sendmsg(self, buffers, ancillary, flags):
        return super().sendmsg([buffers[0][:5]], ancillary, flags)


def test_a_message_the_kernel_takes_in_pieces_arrives_whole_with_its_fds_once():
    ours, theirs = socket.socketpair()
    connection = Connection(StingySocket(fileno=ours.detach()))
    front_end = Connection(theirs, replies=True)
    fd = os.eventfd(0)
    connection.send(Message(28, b"payload", 0x5, (fd,)))
    os.close(fd)
    (reply,) = list(front_end.receive())
    assert (reply.payload, len(reply.fds)) == (b"payload", 1)
    close_all([reply])
    connection.close()
    front_end.close()


def test_a_peer_that_goes_without_reading(pair):
    connection, theirs = pair
    connection.send(REQUEST)
    theirs.close()
    with pytest.raises(ConnectionClosed):
        list(connection.receive())


def test_sending_to_a_peer_that_has_gone(pair):
    connection, theirs = pair
    theirs.close()
    with pytest.raises(ConnectionClosed):
        connection.send(REQUEST)


def test_an_fd_for_a_peer_that_has_gone_is_closed(pair):
    connection, theirs = pair
    theirs.close()
    reader, writer = os.pipe2(os.O_NONBLOCK)
    with pytest.raises(ConnectionClosed):
        connection.send(Message(28, flags=0x5, fds=(writer,)))
    os.close(writer)
    assert os.read(reader, 1) == b"", "nobody else has it"
    os.close(reader)


def test_connecting_and_closing_in_a_loop():
    for _ in range(100):
        ours, theirs = socket.socketpair()
        connection = Connection(ours)
        send_fds(theirs, b"\x01", 1)
        list(connection.receive())
        theirs.close()
        connection.close()
