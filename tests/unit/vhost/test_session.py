# SPDX-License-Identifier: Apache-2.0
"""The way of every request: shape, protocol features, replies and refusals.

Hostile inputs 6, 7, 10, 11 and 13, and the rules of "REPLY_ACK".
"""

import os

import pytest

from ovs_vhost_plugin.vhost import effects, spec
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.session import TABLE
from ovs_vhost_plugin.vhost.spec import FrontendRequest, ProtocolFeature

R = FrontendRequest
OK = spec.U64.pack(0)
REFUSED = spec.U64.pack(1)


def name_of(send, *args, **kwargs):
    with pytest.raises(PeerError) as caught:
        send(*args, **kwargs)
    return caught.value.name


# -- replies ---------------------------------------------------------------------------------


def test_get_features_is_answered_before_anything_else(bare):
    reply = bare.send(R.GET_FEATURES)
    assert reply == Message(R.GET_FEATURES, spec.U64.pack(bare.session.offer.features), 0x5)


def test_get_protocol_features_is_answered_before_set_features(bare):
    reply = bare.send(R.GET_PROTOCOL_FEATURES)
    assert reply.payload == spec.U64.pack(bare.session.offer.protocol_features)
    assert reply.flags == 0x5


def test_get_queue_num_counts_queue_pairs(bare):
    assert bare.send(R.GET_QUEUE_NUM).payload == spec.U64.pack(2)


def test_get_queue_num_needs_no_acknowledgement_of_mq(bare):
    assert not bare.session.negotiated(ProtocolFeature.MQ)
    assert bare.send(R.GET_QUEUE_NUM) is not None


def test_a_get_request_with_need_reply_has_one_reply_only(peer):
    reply = peer.send(R.GET_FEATURES, need_reply=True)
    assert reply == Message(R.GET_FEATURES, spec.U64.pack(peer.session.offer.features), 0x5)


def test_need_reply_is_acknowledged(peer):
    reply = peer.u64(R.SET_VRING_CALL, 0x100, need_reply=True)
    assert reply == Message(R.SET_VRING_CALL, OK, 0x5)


def test_without_need_reply_there_is_no_reply(peer):
    assert peer.u64(R.SET_VRING_CALL, 0x100) is None


def test_need_reply_is_ignored_without_reply_ack(bare):
    assert bare.send(R.SET_OWNER, need_reply=True) is None


def test_the_message_that_negotiates_reply_ack_may_ask_for_it(bare):
    """As User Mode Linux does, and waits for ever."""
    features = ProtocolFeature.REPLY_ACK.mask
    reply = bare.u64(R.SET_PROTOCOL_FEATURES, features, need_reply=True)
    assert reply == Message(R.SET_PROTOCOL_FEATURES, OK, 0x5)


def test_the_message_that_gives_reply_ack_up_is_not_acknowledged(peer):
    assert peer.u64(R.SET_PROTOCOL_FEATURES, 0, need_reply=True) is None


# -- refusals --------------------------------------------------------------------------------


def test_a_refusal_is_told_where_reply_ack_is_negotiated(peer):
    reply = peer.state(R.SET_VRING_NUM, 0, 3, need_reply=True)
    assert reply == Message(R.SET_VRING_NUM, REFUSED, 0x5)
    (refused,) = peer.effects
    assert refused.error.name == PeerErrorName.VRING_SIZE_NOT_POWER_OF_TWO


def test_a_told_refusal_holds_no_frames(peer):
    peer.state(R.SET_VRING_NUM, 0, 3, need_reply=True)
    assert peer.effects[0].error.__traceback__ is None


def test_a_refusal_nobody_waits_for_leaves_the_session(peer):
    assert name_of(peer.state, R.SET_VRING_NUM, 0, 3) == "vring-size-not-power-of-two"


def test_a_refusal_leaves_the_session_without_reply_ack(bare):
    assert name_of(bare.state, R.SET_VRING_NUM, 0, 3, need_reply=True)


def test_a_refused_question_has_no_honest_answer(peer):
    assert name_of(peer.state, R.GET_VRING_BASE, 99, 0, need_reply=True) == "vring-index"


def test_an_effect_the_device_refuses_is_told(peer, memfd):
    def refuse(effect):
        if isinstance(effect, effects.SetMemoryTable):
            raise PeerError(PeerErrorName.FILE_SHORTER_THAN_REGION)

    peer.execute = refuse
    payload = spec.MEMORY_HEADER.pack(1, 0) + spec.MEMORY_REGION.pack(0, 4096, 0, 0)
    reply = peer.send(R.SET_MEM_TABLE, payload, (memfd(4096),), need_reply=True)
    assert reply.payload == REFUSED
    assert peer.effects[-1].error.name == PeerErrorName.FILE_SHORTER_THAN_REGION


def test_a_fatal_error_is_never_told(peer):
    def refuse(effect):
        assert not isinstance(effect, effects.Refused)
        raise PeerError(PeerErrorName.VRING_OUTSIDE_MEMORY, fatal=True)

    peer.execute = refuse
    assert name_of(peer.addr, need_reply=True) == PeerErrorName.VRING_OUTSIDE_MEMORY


@pytest.mark.parametrize("number", [0, 45, 255, 2**32 - 1])
def test_unknown_request(peer, number):
    assert name_of(peer.send, number) == PeerErrorName.REQUEST_UNKNOWN


def test_unknown_request_with_need_reply_keeps_the_connection(peer):
    assert peer.send(4711, need_reply=True) == Message(4711, REFUSED, 0x5)


def test_requests_of_other_devices_are_refused_by_name(peer):
    for request in (
        R.CREATE_CRYPTO_SESSION,
        R.CLOSE_CRYPTO_SESSION,
        R.GPU_SET_SOCKET,
        R.GET_SHARED_OBJECT,
        R.GET_SHMEM_CONFIG,
    ):
        assert name_of(peer.send, request) == PeerErrorName.REQUEST_NOT_FOR_NET


def test_every_other_request_of_the_protocol_is_refused_by_name(peer):
    refused = {r for r in R if r not in TABLE}
    assert {R.SET_LOG_FD, R.SET_VRING_ENDIAN} < refused
    for request in refused:
        with pytest.raises(PeerError) as caught:
            peer.send(request)
        if caught.value.name != PeerErrorName.REQUEST_NOT_FOR_NET:
            assert caught.value.name == PeerErrorName.REQUEST_NOT_OFFERED
            assert caught.value.detail == request.name


def refusal_of(peer, request, *args):
    """The name of what is wrong, said in the way that the request's row has for it."""
    row = TABLE[request]
    if row.refusal is None and not row.advisory:
        return name_of(peer.send, request, *args)
    reply = peer.send(request, *args)
    assert (reply and reply.payload) == row.refusal
    return peer.effects[0].error.name


WRONG_SIZES = [
    (request, row.size + excess)
    for request, row in TABLE.items()
    if row.size is not None
    for excess in (-1, 1)
    if row.size + excess >= 0
]


@pytest.mark.parametrize(("request_", "size"), WRONG_SIZES)
def test_size_that_does_not_fit_the_request(peer, request_, size):
    assert refusal_of(peer, request_, bytes(size)) == PeerErrorName.PAYLOAD_SIZE


@pytest.mark.parametrize("request_", [r for r, row in TABLE.items() if row.fds == (0, 0)])
def test_fd_on_a_request_that_takes_none(peer, request_):
    payload = bytes(TABLE[request_].size or 0)
    assert refusal_of(peer, request_, payload, (os.eventfd(0),)) == PeerErrorName.FDS_UNEXPECTED


@pytest.mark.parametrize("request_", [R.SET_VRING_KICK, R.SET_VRING_CALL, R.SET_VRING_ERR])
def test_two_fds_where_one_belongs(peer, request_):
    fds = (os.eventfd(0), os.eventfd(0))
    assert name_of(peer.u64, request_, 0, fds) == PeerErrorName.FDS_UNEXPECTED


@pytest.mark.parametrize("request_", [R.SET_VRING_KICK, R.SET_VRING_CALL, R.SET_VRING_ERR])
def test_missing_fd(peer, request_):
    assert name_of(peer.u64, request_, 0) == PeerErrorName.FDS_MISSING


def test_missing_log_fd(peer):
    payload = spec.LOG.pack(4096, 0)
    assert name_of(peer.send, R.SET_LOG_BASE, payload) == PeerErrorName.FDS_MISSING


def test_fds_of_a_request_the_device_never_finished_are_closed(peer):
    handling = peer.session.receive(
        Message(R.SET_VRING_KICK, spec.U64.pack(0), fds=(os.eventfd(0),))
    )
    next(handling)
    handling.close()
    peer.session.close()
