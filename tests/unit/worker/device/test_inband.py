# SPDX-License-Identifier: Apache-2.0
"""Eventfds that become messages: one under way for each ring, none lost with a channel."""

import os
import selectors
import socket
from collections.abc import Iterator

import pytest

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.errors import PeerError
from ovs_vhost_plugin.vhost.message import Decoder, Message, encode
from ovs_vhost_plugin.vhost.spec import BackendRequest
from ovs_vhost_plugin.vhost.state import VringState
from ovs_vhost_plugin.worker.backend import BackEndChannel
from ovs_vhost_plugin.worker.device.inband import InBand

CALL, ERR = BackendRequest.VRING_CALL, BackendRequest.VRING_ERR
ASKED = spec.VERSION | spec.NEED_REPLY


def own() -> int:
    return os.eventfd(0, os.EFD_NONBLOCK)


class Rig:
    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.errors: list[PeerError] = []
        self.channel = BackEndChannel(self.selector, self.errors.append)
        self.inband = InBand(self.selector, self.channel)
        self.vrings = [VringState(index, call_fd=own(), err_fd=own()) for index in range(2)]
        self.peer, self._decoder = socket.socketpair()[0], Decoder()
        for vring in self.vrings:
            self.inband.follow(vring)

    def open(self) -> None:
        self.peer.close()
        self.peer, theirs = socket.socketpair()
        self.peer.setblocking(False)
        self.channel.open(theirs.detach(), acknowledged=True)
        self.inband.channel_opened()

    def turn(self) -> int:
        ready = self.selector.select(0)
        for key, _ in ready:
            if key.fd in self.selector.get_map():
                key.data(0.0)
        return len(ready)

    def messages(self) -> list[tuple[int, int]]:
        """What the front-end was sent: request and vring."""
        while self.turn():
            pass
        found = []
        while (message := self._decoder.next()) is None:
            try:
                self._decoder.feed(self.peer.recv(self._decoder.wanted))
            except BlockingIOError:
                return found
            while (message := self._decoder.next()) is not None:
                index, num = spec.VRING_STATE.unpack(message.payload)
                assert (message.flags, num) == (ASKED, 0)
                found.append((message.request, index))
        return found

    def answer(self, request: int, result: int = 0) -> None:
        flags = spec.VERSION | spec.REPLY
        self.peer.send(encode(Message(request, spec.U64.pack(result), flags)))

    def call(self, index: int = 0) -> None:
        os.eventfd_write(self.vrings[index].call_fd, 1)

    def close(self) -> None:
        self.inband.forget()
        self.channel.close()
        self.peer.close()
        assert not self.selector.get_map() and not self.errors
        self.selector.close()
        for vring in self.vrings:
            vring.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    rig.open()
    assert rig.messages() == []
    yield rig
    rig.close()


def test_calls_and_errors_become_messages(rig: Rig) -> None:
    rig.call(1)
    assert rig.messages() == [(CALL, 1)]
    os.eventfd_write(rig.vrings[0].err_fd, 1)
    assert rig.messages() == [(ERR, 0)]


@pytest.mark.parametrize("result", [0, 1])
def test_a_ring_has_one_message_under_way(rig: Rig, result: int) -> None:
    for _ in range(5):
        rig.call()
        rig.turn()
    rig.call(1)
    assert rig.messages() == [(CALL, 0), (CALL, 1)]
    rig.answer(CALL, result)
    assert rig.messages() == [(CALL, 0)]  # one for the four that came meanwhile
    rig.answer(CALL)
    rig.answer(CALL)
    assert rig.messages() == []


def test_a_call_before_there_is_a_channel_waits_for_it(rig: Rig) -> None:
    rig.channel.close()
    rig.call()
    rig.turn()
    assert rig.turn() == 0  # and does not keep the loop busy
    rig.open()
    assert rig.messages() == [(CALL, 0)]


def test_a_call_that_was_on_its_way_when_the_channel_went_comes_again(rig: Rig) -> None:
    rig.call()
    rig.turn()
    rig.open()
    assert rig.messages() == [(CALL, 0)]


def test_a_ring_that_gets_an_eventfd_of_its_own_says_no_more(rig: Rig) -> None:
    vring = rig.vrings[0]
    ours, theirs = vring.call_fd, own()
    vring.call_fd, vring.call_told = theirs, True
    rig.inband.follow(vring)
    os.close(ours)
    rig.call()
    assert rig.messages() == []


def test_one_whose_last_call_is_not_acknowledged_yet(rig: Rig) -> None:
    rig.call()
    assert rig.messages() == [(CALL, 0)]
    vring = rig.vrings[0]
    ours, vring.call_fd, vring.call_told = vring.call_fd, -1, True
    rig.inband.follow(vring)
    os.close(ours)
    rig.answer(CALL)
    assert rig.messages() == []


def test_a_ring_that_changes_otherwise_keeps_waiting(rig: Rig) -> None:
    rig.call()
    rig.turn()
    rig.inband.follow(rig.vrings[0])
    rig.call()
    assert rig.messages() == [(CALL, 0)]
    rig.answer(CALL)
    assert rig.messages() == [(CALL, 0)]


def test_a_session_that_ended_says_no_more(rig: Rig) -> None:
    rig.call()
    rig.inband.forget()
    assert rig.messages() == []
