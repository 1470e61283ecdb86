# SPDX-License-Identifier: Apache-2.0
"""In-band notifications: rings that messages start and wake, and whose fds are then whose."""

import os

import pytest

from ovs_vhost_plugin.vhost import effects, spec
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.fds.kind import is_eventfd
from ovs_vhost_plugin.vhost.spec import FrontendRequest, ProtocolFeature

R = FrontendRequest
NO_FD = 0x100
INBAND = ProtocolFeature.INBAND_NOTIFICATIONS.mask
NEEDS = ProtocolFeature.BACKEND_REQ.mask | ProtocolFeature.REPLY_ACK.mask


def kick(peer, index=0, num=0):
    return peer.state(R.VRING_KICK, index, num)


def name_of(call, *args):
    with pytest.raises(PeerError) as caught:
        call(*args)
    return caught.value.name


def vring(peer, index=0):
    return peer.session.vrings[index]


def test_the_first_kick_starts_the_ring_and_each_wakes_it(peer):
    kick(peer)
    assert vring(peer).started and not vring(peer, 1).started
    assert peer.effects == [effects.ReconfigureVring(0), effects.KickVring(0)]
    assert vring(peer).inband_kick and vring(peer).inband_call and vring(peer).inband_err
    fds = vring(peer).kick_fd, vring(peer).call_fd, vring(peer).err_fd
    assert len(set(fds)) == 3
    assert all(is_eventfd(fd) and not os.get_blocking(fd) for fd in fds)
    kick(peer)
    assert peer.effects == [effects.KickVring(0)]
    assert fds == (vring(peer).kick_fd, vring(peer).call_fd, vring(peer).err_fd)


def test_a_stopped_ring_is_started_again(peer):
    kick(peer)
    call = vring(peer).call_fd
    peer.state(R.GET_VRING_BASE, 0, 0)
    assert not vring(peer).started and vring(peer).kick_fd < 0
    kick(peer)
    assert vring(peer).started and vring(peer).inband_kick and vring(peer).call_fd == call


def test_a_ring_that_was_stopped_may_be_kicked_in_band_where_it_had_an_eventfd(peer):
    peer.u64(R.SET_VRING_KICK, 0, (os.eventfd(0),))
    peer.state(R.GET_VRING_BASE, 0, 0)
    kick(peer)
    assert vring(peer).started and vring(peer).inband_kick
    assert peer.effects == [effects.ReconfigureVring(0), effects.KickVring(0)]


def test_a_reset_ring_is_started_again(peer):
    kick(peer)
    call = vring(peer).call_fd
    peer.send(R.RESET_DEVICE)
    assert vring(peer).inband_call and vring(peer).call_fd == call
    kick(peer)
    assert vring(peer).started and vring(peer).inband_kick


def test_an_eventfd_is_preferred_to_the_message(peer):
    theirs = os.eventfd(0)
    peer.u64(R.SET_VRING_KICK, 0, (theirs,))
    assert vring(peer).kick_fd == theirs and not vring(peer).inband_kick
    kick(peer)
    assert peer.effects == []  # theirs may block whoever writes it


def test_a_ring_that_is_polled_needs_no_kick(peer):
    peer.u64(R.SET_VRING_KICK, NO_FD)
    assert vring(peer).started
    kick(peer)
    assert peer.effects == [] and vring(peer).kick_fd < 0


@pytest.mark.parametrize(
    ("request_", "name"),
    [(R.SET_VRING_KICK, "kick"), (R.SET_VRING_CALL, "call"), (R.SET_VRING_ERR, "err")],
)
@pytest.mark.parametrize("with_fd", [True, False])
@pytest.mark.parametrize("late", [True, False])
def test_what_a_front_end_says_itself_counts(peer, request_, name, with_fd, late):
    def say():
        peer.u64(request_, 0 if with_fd else NO_FD, (os.eventfd(0),) if with_fd else ())

    if late:
        kick(peer)
    say()
    kick(peer)
    assert (getattr(vring(peer), f"{name}_fd") >= 0) == with_fd
    for other in ("kick", "call", "err"):
        assert getattr(vring(peer), f"inband_{other}") == (other != name)


def test_a_ring_started_by_set_vring_kick_is_called_in_band(peer):
    peer.u64(R.SET_VRING_KICK, 0, (os.eventfd(0),))
    assert vring(peer).inband_call and vring(peer).inband_err


def test_a_front_end_that_did_not_negotiate_it_has_no_eventfds_of_ours(bare):
    bare.u64(R.SET_PROTOCOL_FEATURES, NEEDS)
    bare.u64(R.SET_VRING_KICK, 0, (os.eventfd(0),))
    assert vring(bare).call_fd < 0 and vring(bare).err_fd < 0
    assert name_of(kick, bare) == PeerErrorName.PROTOCOL_FEATURE_MISSING


def test_a_ring_that_cannot_run_leaves_no_eventfds(peer):
    def refuse(effect):
        raise PeerError(PeerErrorName.VRING_OUTSIDE_MEMORY)

    peer.execute = refuse
    assert name_of(kick, peer) == PeerErrorName.VRING_OUTSIDE_MEMORY
    assert not vring(peer).started
    assert vring(peer).kick_fd == vring(peer).call_fd == vring(peer).err_fd == -1


def test_a_kick_of_a_ring_there_is_not(peer):
    assert name_of(kick, peer, 4) == PeerErrorName.VRING_INDEX
    assert name_of(kick, peer, 2**32 - 1) == PeerErrorName.VRING_INDEX


def test_a_kick_with_reserved_bits(peer):
    assert name_of(kick, peer, 0, 1) == PeerErrorName.VRING_RESERVED_BITS
    assert not vring(peer).started


@pytest.mark.parametrize("has", [0, *(1 << bit for bit in range(6) if NEEDS >> bit & 1)])
@pytest.mark.parametrize("need_reply", [False, True])
def test_messages_without_a_channel_for_them_cost_the_connection(bare, has, need_reply):
    with pytest.raises(PeerError) as caught:
        bare.u64(R.SET_PROTOCOL_FEATURES, INBAND | has, need_reply=need_reply)
    assert caught.value.name == PeerErrorName.INBAND_WITHOUT_CHANNEL and caught.value.fatal
    bare.u64(R.SET_PROTOCOL_FEATURES, INBAND | NEEDS)
    assert bare.session.protocol_features == INBAND | NEEDS


def test_a_kick_is_acknowledged(peer):
    reply = peer.state(R.VRING_KICK, 0, 0, need_reply=True)
    assert reply.payload == spec.U64.pack(0)
