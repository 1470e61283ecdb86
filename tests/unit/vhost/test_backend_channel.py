# SPDX-License-Identifier: Apache-2.0
"""The back-end's own requests: how they look, which answer is whose, and answers that are none."""

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.vhost import effects, spec
from ovs_vhost_plugin.vhost.backend_channel import MAX_UNANSWERED, Requests
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.spec import BackendRequest, FrontendRequest

CHANGED, CALL = BackendRequest.CONFIG_CHANGE_MSG, BackendRequest.VRING_CALL


def answer(request, value=0, **changes):
    message = {"payload": spec.U64.pack(value), "flags": spec.VERSION | spec.REPLY} | changes
    return Message(request, **message)


@pytest.mark.parametrize("acknowledged", [True, False])
def test_an_acknowledgement_is_asked_for_where_there_can_be_one(acknowledged):
    requests = Requests(acknowledged=acknowledged)
    answers = []
    asked = requests.ask(CALL, spec.VRING_STATE.pack(1, 0), answers.append)
    assert asked.need_reply == acknowledged
    assert (asked.request, asked.payload) == (CALL, spec.VRING_STATE.pack(1, 0))
    told = requests.ask(CHANGED)
    assert not told.need_reply  # nobody wants to know
    assert (told.request, told.payload) == (CHANGED, b"")


def test_answers_come_in_the_order_of_the_requests():
    requests, answers = Requests(acknowledged=True), []
    for index, request in enumerate([CHANGED, CALL, CALL]):
        requests.ask(request, b"", lambda result, index=index: answers.append((index, result)))
    for request, value in ((CHANGED, 0), (CALL, 7), (CALL, 0)):
        requests.answer(answer(request, value))
    assert answers == [(0, 0), (1, 7), (2, 0)]


def test_an_answer_to_nothing():
    requests = Requests(acknowledged=True)
    requests.ask(CHANGED)
    with pytest.raises(PeerError) as caught:
        requests.answer(answer(CHANGED))
    assert str(caught.value) == f"backend-reply-unexpected: to {CHANGED}"


def test_an_answer_to_another_request():
    requests = Requests(acknowledged=True)
    requests.ask(CHANGED, b"", print)
    with pytest.raises(PeerError) as caught:
        requests.answer(answer(CALL))
    told = f"to {CALL}, CONFIG_CHANGE_MSG comes first"
    assert str(caught.value) == f"backend-reply-unexpected: {told}"


@pytest.mark.parametrize("size", [0, 4, 7, 9, 4096])
def test_an_answer_that_is_no_number(size):
    requests = Requests(acknowledged=True)
    requests.ask(CHANGED, b"", print)
    with pytest.raises(PeerError) as caught:
        requests.answer(answer(CHANGED, payload=bytes(size)))
    assert str(caught.value) == f"payload-size: answer to CONFIG_CHANGE_MSG: {size} bytes"


def test_an_answer_with_an_fd():
    requests = Requests(acknowledged=True)
    requests.ask(CHANGED, b"", print)
    with pytest.raises(PeerError) as caught:
        requests.answer(answer(CHANGED, fds=(os.eventfd(0),)))  # closed: the fixture looks
    assert str(caught.value) == f"fds-unexpected: answer to {CHANGED}"


def test_requests_that_are_never_answered():
    requests = Requests(acknowledged=True)
    for _ in range(MAX_UNANSWERED):
        requests.ask(CALL, b"", print)
    with pytest.raises(PeerError) as caught:
        requests.ask(CALL, b"", print)
    assert str(caught.value) == f"backend-not-answered: {MAX_UNANSWERED} requests"


@given(
    asked=st.lists(st.tuples(st.sampled_from(BackendRequest), st.booleans()), max_size=8),
    said=st.lists(
        st.tuples(
            st.sampled_from(BackendRequest) | st.integers(0, 2**32 - 1),
            st.just(bytes(8)) | st.binary(max_size=20),
        ),
        max_size=8,
    ),
)
def test_whatever_is_answered_each_request_has_its_own_answer_or_none(asked, said):
    requests, answered = Requests(acknowledged=True), []
    for index, (request, wants) in enumerate(asked):
        on_answer = (lambda _, index=index: answered.append(index)) if wants else None
        requests.ask(request, b"", on_answer)
    expected = [index for index, (_, wants) in enumerate(asked) if wants]
    for request, payload in said:
        try:
            requests.answer(answer(request, payload=payload))
        except PeerError as error:
            assert error.name in set(PeerErrorName)
            break
        assert request == asked[answered[-1]][0]
    assert answered == expected[: len(answered)]


def test_the_device_is_given_the_socket(peer):
    ours, theirs = socket.socketpair()
    fd = theirs.detach()
    reply = peer.send(FrontendRequest.SET_BACKEND_REQ_FD, b"", (fd,), need_reply=True)
    assert reply.payload == spec.U64.pack(0)
    assert peer.effects == [effects.OpenBackendChannel(fd, acknowledged=True)]
    ours.close()


def test_a_front_end_without_reply_ack_is_not_asked_for_acknowledgements(bare):
    bare.u64(FrontendRequest.SET_PROTOCOL_FEATURES, spec.ProtocolFeature.BACKEND_REQ.mask)
    ours, theirs = socket.socketpair()
    with ours:
        bare.send(FrontendRequest.SET_BACKEND_REQ_FD, b"", (theirs.detach(),))
    (effect,) = bare.effects
    assert not effect.acknowledged


def test_no_socket_comes(peer):
    with pytest.raises(PeerError) as caught:
        peer.send(FrontendRequest.SET_BACKEND_REQ_FD)
    assert caught.value.name == PeerErrorName.FDS_MISSING
