# SPDX-License-Identifier: Apache-2.0
"""The handshake in QEMU's order, and a name for each way a back-end can fail."""

import socket
import struct
from pathlib import Path

import pytest
from support.guest.guest_lab import Lab
from support.guest.reference_rings import Behaviour

from ovs_vhost_plugin.guest.frontend.connection import (
    BackEndClosedError,
    BackEndError,
    FrontEndConnection,
    ReplyTimeoutError,
    RequestRefusedError,
    WrongReplyError,
    listen,
)
from ovs_vhost_plugin.guest.soft import Config
from ovs_vhost_plugin.vhost.spec import NEED_REPLY, FrontendRequest

QUICK = Config(timeout=0.1)


def test_handshake_in_order(lab: Lab) -> None:
    guest, back_end = lab.pair(Config(mtu=1400, size=64))
    guest.stop()
    vring = [8, 10, 9, 13, 12]
    start = [1, 15, 16, 17, 3, 2, 5, 20]
    assert back_end.seen.names() == [*start, 18, 18, *vring, *vring, 11, 11]


def test_payloads_are_what_the_specification_says(lab: Lab) -> None:
    guest, back_end = lab.pair(Config(mtu=1400, size=64, first_index=7))
    guest.stop_rings()
    payloads = dict(back_end.seen.requests)
    region = guest.memory.regions[0]
    queue = guest.pairs[0].tx.queue
    user = region.user_address - region.guest_address
    assert payloads[5] == struct.pack(
        "<IIQQQQ", 1, 0, region.guest_address, region.size, region.user_address, 4096
    )
    assert payloads[20] == struct.pack("<Q", 1400)
    assert payloads[8] == struct.pack("<II", 1, 64)
    assert payloads[10] == struct.pack("<II", 1, 7)
    assert payloads[9] == struct.pack(
        "<IIQQQQ",
        1,
        0,
        queue.desc_address + user,
        queue.used_address + user,
        queue.avail_address + user,
        queue.used_address,
    )
    assert back_end.features == guest.config.features | 1 << 30


@pytest.mark.parametrize("negotiated", [True, False])
def test_acknowledgement_is_asked_for_where_it_was_negotiated(lab: Lab, negotiated: bool) -> None:
    protocol_features = 0b11111 if negotiated else 0b10111
    _, back_end = lab.pair(Config(mtu=1400), Behaviour(protocol_features=protocol_features))
    asked = {request for request, flags in back_end.seen.flags.items() if flags & NEED_REPLY}
    assert asked == ({5, 20} if negotiated else set())


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (Behaviour(silent_on=1), ReplyTimeoutError),
        (Behaviour(silent_on=5), ReplyTimeoutError),
        (Behaviour(wrong_on=15), WrongReplyError),
        (Behaviour(refuse=5), RequestRefusedError),
        (Behaviour(hang_up_on=17), BackEndClosedError),
    ],
)
def test_a_back_end_that_fails_is_named(
    lab: Lab, behaviour: Behaviour, error: type[BackEndError]
) -> None:
    with pytest.raises(error):
        lab.pair(QUICK if error is ReplyTimeoutError else Config(), behaviour)


def test_nobody_connects(tmp_path: Path) -> None:
    with listen(tmp_path / "sock") as listener, pytest.raises(ReplyTimeoutError):
        FrontEndConnection.accept(listener, 0.05)


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        FrontEndConnection.connect(tmp_path / "sock")


@pytest.fixture
def ends() -> tuple[FrontEndConnection, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    return FrontEndConnection(ours, 60.0), theirs


@pytest.mark.parametrize(
    "reply",
    [
        struct.pack("<IIIQ", 1, 1, 8, 0),  # no reply flag
        struct.pack("<IIIQ", 1, 6, 8, 0),  # version 2
        struct.pack("<IIIQ", 1, 13, 8, 0),  # a reply that wants a reply
        struct.pack("<IIII", 1, 5, 4, 0),  # too short
        struct.pack("<III", 1, 5, 0xFFFFFFFF),
    ],
)
def test_replies_in_a_wrong_form(
    ends: tuple[FrontEndConnection, socket.socket], reply: bytes
) -> None:
    connection, other = ends
    other.sendall(reply)
    with pytest.raises(WrongReplyError):
        connection.ask(FrontendRequest.GET_FEATURES, size=8)


def test_half_a_reply_is_no_reply(ends: tuple[FrontEndConnection, socket.socket]) -> None:
    connection, other = ends
    connection.timeout = 0.1
    other.sendall(struct.pack("<IIII", 1, 5, 8, 0))
    with pytest.raises(ReplyTimeoutError):
        connection.ask(FrontendRequest.GET_FEATURES, size=8)


def test_a_back_end_that_does_not_read(ends: tuple[FrontEndConnection, socket.socket]) -> None:
    connection, _ = ends
    connection.timeout = 0.1
    with pytest.raises(ReplyTimeoutError):
        connection.send_raw(bytes(10_000_000))


def test_raw_bytes_and_fds_go_out_as_they_are(
    ends: tuple[FrontEndConnection, socket.socket],
) -> None:
    connection, other = ends
    connection.send_raw(b"anything", [0, 0])
    data, fds, _, _ = socket.recv_fds(other, 100, 8)
    assert (data, len(fds)) == (b"anything", 2)


def test_hanging_up_and_unasked_messages_are_noticed(
    ends: tuple[FrontEndConnection, socket.socket],
) -> None:
    connection, other = ends
    connection.check()
    other.sendall(b"?")
    with pytest.raises(WrongReplyError):
        connection.check()
    other.close()
    with pytest.raises(BackEndClosedError):
        connection.send_raw(b"hello")
