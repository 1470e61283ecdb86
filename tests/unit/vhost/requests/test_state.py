# SPDX-License-Identifier: Apache-2.0
"""SET_DEVICE_STATE_FD and CHECK_DEVICE_STATE: what begins a transfer, and what a refusal says."""

import os

import pytest

from ovs_vhost_plugin.vhost import effects, spec
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.spec import FrontendRequest, TransferDirection, TransferPhase

R = FrontendRequest
NO_FD = 0x100
ERROR = 0xFF  # bits 0-7 of the reply


def begin(peer, direction=TransferDirection.SAVE, phase=TransferPhase.STOPPED, fds=1):
    """The reply's number, and the fds that came with the request."""
    ends = [os.pipe() for _ in range(fds)]
    passed = tuple(writing for _, writing in ends)
    payload = spec.DEVICE_STATE.pack(direction, phase)
    reply = peer.send(R.SET_DEVICE_STATE_FD, payload, passed)
    for reading, _ in ends:
        os.close(reading)
    assert reply.flags == 0x5
    return spec.U64.unpack(reply.payload)[0], passed


@pytest.mark.parametrize(
    ("direction", "effect"),
    [(TransferDirection.SAVE, effects.SaveState), (TransferDirection.LOAD, effects.LoadState)],
)
def test_a_transfer_begins_in_either_direction_and_no_fd_comes_back(peer, direction, effect):
    answer, (fd,) = begin(peer, direction)
    assert answer == NO_FD
    assert peer.effects == [effect(fd)]


@pytest.mark.parametrize(
    ("direction", "phase", "name"),
    [
        (2, 0, PeerErrorName.DEVICE_STATE_DIRECTION),
        (2**32 - 1, 0, PeerErrorName.DEVICE_STATE_DIRECTION),
        (0, 1, PeerErrorName.DEVICE_STATE_PHASE),
    ],
)
def test_directions_and_phases_that_are_not_specified(peer, direction, phase, name):
    answer, _ = begin(peer, direction, phase)
    assert answer & ERROR and answer & NO_FD
    assert peer.effects[0].error.name == name


def test_a_state_is_not_moved_while_a_ring_runs(peer):
    peer.set_up_vring()
    answer, _ = begin(peer)
    assert answer & ERROR
    assert peer.effects[0].error.name == PeerErrorName.DEVICE_STATE_WHILE_STARTED


@pytest.mark.parametrize(
    ("fds", "name"), [(0, PeerErrorName.FDS_MISSING), (2, PeerErrorName.FDS_UNEXPECTED)]
)
def test_exactly_one_fd_is_needed(peer, fds, name):
    answer, _ = begin(peer, fds=fds)
    assert answer & ERROR
    assert peer.effects[0].error.name == name


def test_a_good_transfer_is_answered_with_zero(peer):
    assert peer.send(R.CHECK_DEVICE_STATE) == Message(R.CHECK_DEVICE_STATE, spec.U64.pack(0), 0x5)
    assert peer.effects == [effects.CheckState()]


@pytest.mark.parametrize("request_", [R.SET_DEVICE_STATE_FD, R.CHECK_DEVICE_STATE])
def test_what_the_device_refuses_is_said_in_the_reply_and_the_session_goes_on(peer, request_):
    def refuse(effect):
        if not isinstance(effect, effects.Refused):
            raise PeerError(PeerErrorName.DEVICE_STATE_NONE)

    peer.execute = refuse
    if request_ == R.CHECK_DEVICE_STATE:
        assert spec.U64.unpack(peer.send(request_).payload)[0] != 0
    else:
        assert begin(peer)[0] & ERROR
    assert peer.effects[-1].error.name == PeerErrorName.DEVICE_STATE_NONE
