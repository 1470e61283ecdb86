# SPDX-License-Identifier: Apache-2.0
"""The back-end channel over a real socket, whose other end does what it likes."""

import gc
import os
import selectors
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.message import Message, encode
from ovs_vhost_plugin.vhost.spec import BackendRequest
from ovs_vhost_plugin.worker.backend import BackEndChannel

pytestmark = pytest.mark.timeout(30)  # seconds: a channel that blocks is ended, and named

CHANGED = BackendRequest.CONFIG_CHANGE_MSG
MANY = 100_000
"""More requests than a channel keeps."""
OK = encode(Message(CHANGED, spec.U64.pack(0), spec.VERSION | spec.REPLY))


def open_fds() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


class Rig:
    """A channel, the worker's loop, and the front-end's end."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.errors: list[PeerError] = []
        self.answers: list[int] = []
        self.channel = BackEndChannel(self.selector, self.errors.append)
        self.peer = self.open()

    def open(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(10)
        self.channel.open(theirs.detach(), acknowledged=True)
        return ours

    def ask(self) -> bool:
        return self.channel.ask(CHANGED, b"", self.answers.append)

    def turn(self) -> int:
        """One turn of the loop; how many fds were ready."""
        ready = self.selector.select(0)
        for key, _ in ready:
            key.data(0.0)
        return len(ready)

    def fault(self) -> str:
        (error,) = self.errors
        assert not self.channel.is_open and not self.selector.get_map()
        return error.name

    def close(self) -> None:
        self.channel.close()
        self.peer.close()
        assert not self.selector.get_map()
        self.selector.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    before = open_fds()
    rig = Rig()
    yield rig
    rig.close()
    wait_until(lambda: open_fds() == before, "all is closed: some by threads (closing.py)")


def test_a_request_is_answered(rig: Rig) -> None:
    assert rig.ask()
    assert rig.peer.recv(100) == encode(Message(CHANGED, b"", spec.VERSION | spec.NEED_REPLY))
    rig.peer.send(OK[:5])
    rig.turn()
    assert rig.answers == []
    rig.peer.send(OK[5:])
    rig.turn()
    assert rig.answers == [0] and not rig.errors


def test_without_a_channel_nothing_is_asked(rig: Rig) -> None:
    rig.channel.close()
    assert not rig.ask()


def test_a_front_end_that_closes_its_end_has_no_channel_any_more(rig: Rig) -> None:
    rig.peer.close()
    rig.turn()
    assert not rig.channel.is_open and not rig.ask() and not rig.errors
    rig.peer = rig.open()
    assert rig.ask()


def test_one_that_has_closed_it_and_was_not_noticed_yet(rig: Rig) -> None:
    rig.peer.close()
    assert not rig.ask() and not rig.errors


def test_another_channel_replaces_the_first_and_what_was_asked_on_it(rig: Rig) -> None:
    rig.ask()
    first, rig.peer = rig.peer, rig.open()
    assert first.recv(100) and first.recv(100) == b""
    first.close()
    rig.peer.send(OK)
    rig.turn()
    assert rig.answers == []
    assert rig.fault() == PeerErrorName.BACKEND_REPLY_UNEXPECTED


def test_a_front_end_that_does_not_read(rig: Rig) -> None:
    assert any(not rig.channel.ask(CHANGED) for _ in range(MANY))
    assert rig.fault() == PeerErrorName.BACKEND_NOT_READ


def test_one_that_reads_late_gets_all_of_it(rig: Rig) -> None:
    asked = 0
    while not any(key.events & selectors.EVENT_WRITE for key in rig.selector.get_map().values()):
        assert rig.channel.ask(CHANGED) and asked < MANY
        asked += 1
    read = b""
    while len(read) < asked * spec.HEADER.size:
        read += rig.peer.recv(1 << 20)
        rig.turn()
    assert read == encode(Message(CHANGED)) * asked
    assert rig.turn() == 0  # it is not asked about writing any more


def test_one_that_reads_and_never_answers(rig: Rig) -> None:
    for _ in range(MANY):
        if not rig.ask():
            break
        rig.peer.recv(1 << 20)
    assert rig.fault() == PeerErrorName.BACKEND_NOT_ANSWERED


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (b"\xff" * 12, PeerErrorName.HEADER_VERSION),
        (encode(Message(CHANGED, bytes(8))), PeerErrorName.HEADER_MISSING_REPLY),
        (spec.HEADER.pack(CHANGED, 5, 1 << 31), PeerErrorName.PAYLOAD_TOO_LARGE),
    ],
)
def test_answers_that_are_no_messages(rig: Rig, said: bytes, name: str) -> None:
    rig.ask()
    rig.peer.send(said)
    rig.turn()
    assert rig.fault() == name and rig.answers == []


def test_a_channel_that_is_closed_by_what_an_answer_causes(rig: Rig) -> None:
    rig.channel.ask(CHANGED, b"", lambda _: rig.channel.close())
    rig.ask()
    rig.peer.send(OK + OK)
    rig.turn()
    assert rig.answers == [] and not rig.errors


def test_a_socket_that_the_front_end_lets_block_holds_nobody_up(rig: Rig) -> None:
    theirs, ours = socket.socketpair()
    rig.channel.open(os.dup(ours.fileno()), acknowledged=True)
    os.set_blocking(ours.fileno(), True)
    assert any(not rig.channel.ask(CHANGED) for _ in range(MANY))
    assert rig.fault() == PeerErrorName.BACKEND_NOT_READ
    theirs.close()
    ours.close()


def listening() -> int:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind("")  # unix(7): an abstract address of the kernel's choice
    sock.listen()
    return sock.detach()


@pytest.mark.parametrize(
    "make",
    [
        lambda: socket.socket(socket.AF_UNIX).detach(),
        listening,
    ],
    ids=["alone", "listening"],
)
def test_a_socket_that_is_not_connected(rig: Rig, make: object) -> None:
    before = open_fds()
    with pytest.raises(PeerError) as caught:
        rig.channel.open(make(), acknowledged=True)  # type: ignore[operator]
    assert caught.value.name == PeerErrorName.BACKEND_FD_NOT_SOCKET
    wait_until(lambda: open_fds() == before, "it is closed")
    assert rig.ask()  # the one there was is still there
