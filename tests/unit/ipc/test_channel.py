# SPDX-License-Identifier: Apache-2.0
"""The control protocol's framing: both ends, and a peer that breaks it."""

import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.ipc.channel import (
    MAX_BACKLOG,
    MAX_BATCH,
    MAX_PACKET,
    Channel,
    ChannelBroken,
    ChannelClosed,
)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(ours)
    yield channel, theirs
    channel.close()
    theirs.close()


def open_fds() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_an_object_and_its_fds_arrive(pair) -> None:
    channel, sock = pair
    other = Channel(sock, max_fds=3)
    reader, writer = os.pipe()
    channel.send({"op": "x", "list": [1, 2]}, [reader, writer])
    channel.send({"op": "y"})

    (first, fds), (second, none) = other.receive()

    assert (first, second, none) == ({"op": "x", "list": [1, 2]}, {"op": "y"}, [])
    os.write(fds[1], b"through")
    assert os.read(fds[0], 10) == b"through"
    assert not os.get_inheritable(fds[0])
    for fd in (*fds, reader, writer):
        os.close(fd)


def test_nothing_there_is_no_packet(pair) -> None:
    assert pair[0].receive() == []


def test_packets_before_the_end_are_not_lost(pair) -> None:
    channel, sock = pair
    sock.send(b'{"event":"last"}')
    sock.close()

    assert channel.receive() == [({"event": "last"}, [])]
    with pytest.raises(ChannelClosed, match="closed by the peer"):
        channel.receive()


@pytest.mark.parametrize(
    "packet",
    [
        b"\xff\xfe",
        b"{",
        b"[]",
        b"17",
        b"null",
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":"' + b"x" * MAX_PACKET + b'"}',
    ],
)
def test_what_is_no_object_breaks_the_channel_for_good(pair, packet: bytes) -> None:
    channel, sock = pair
    sock.send(b'{"good":1}')
    sock.send(packet)
    sock.send(b'{"after":1}')

    assert channel.receive() == [({"good": 1}, [])]
    with pytest.raises(ChannelClosed):
        channel.receive()


@given(st.binary(min_size=1, max_size=400))
def test_any_packet_is_an_object_or_breaks_the_channel(packet: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        channel = Channel(ours)
        theirs.send(packet)
        try:
            [(obj, fds)] = channel.receive()
        except ChannelBroken:
            pass
        else:
            assert json.loads(packet) == obj and not fds
        channel.close()


@pytest.mark.parametrize(("limit", "sent"), [(0, 1), (1, 2), (2, 200)])
def test_more_fds_than_are_taken_are_refused_and_closed(limit: int, sent: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(ours, max_fds=limit)
    before = open_fds()
    socket.send_fds(theirs, [b"{}"], [0] * sent)

    with pytest.raises(ChannelBroken, match="more fds"):
        channel.receive()

    assert open_fds() == before
    channel.close()
    theirs.close()


def test_fds_with_a_broken_packet_are_closed(pair) -> None:
    channel, sock = pair
    before = open_fds()
    socket.send_fds(sock, [b"no object"], [0])

    with pytest.raises(ChannelBroken):
        channel.receive()

    assert open_fds() == before


def test_one_call_takes_a_bounded_number_of_packets(pair) -> None:
    channel, sock = pair
    sock.setblocking(False)
    sent = 0
    try:
        while sent < 2 * MAX_BATCH:
            sock.send(b"{}")
            sent += 1
    except BlockingIOError:
        pass

    taken = len(channel.receive())

    assert taken == min(sent, MAX_BATCH)


def test_a_peer_that_does_not_read_is_waited_for_but_not_for_ever(pair) -> None:
    channel, sock = pair
    reader, writer = os.pipe()
    with pytest.raises(ChannelBroken, match="does not read"):
        for _ in range(100_000):
            channel.send({"filler": "x" * 1000}, [reader])
    assert channel.wants_write
    os.close(reader)
    os.close(writer)

    # Once it reads, all that was taken arrives, in spite of the closed fds.
    other = Channel(sock, max_fds=1)
    arrived = 0
    while channel.wants_write:
        for _, fds in other.receive():
            os.close(fds[0])
            arrived += 1
        channel.flush()
    assert arrived >= MAX_BACKLOG


def test_a_send_to_nobody_says_so(pair) -> None:
    channel, sock = pair
    sock.close()
    with pytest.raises(ChannelClosed):
        channel.send({"op": "quit"})


def test_closing_frees_the_fds_that_wait(pair) -> None:
    channel, _ = pair
    before = open_fds()
    while not channel.wants_write:
        channel.send({"filler": "x" * 1000}, [0])

    channel.close()

    assert not open_fds() - before
