# SPDX-License-Identifier: Apache-2.0
"""Header and framing: hostile inputs 1-5, 8, 9, 12, 13 and 68."""

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.message import Decoder, Message, encode


def header(request=1, flags=spec.VERSION, size=0):
    return struct.pack("<III", request, flags, size)


def refusal(data, fds=(), *, replies=False):
    decoder = Decoder(replies=replies)
    decoder.feed(data, fds)
    with pytest.raises(PeerError) as caught:
        decoder.next()
    with pytest.raises(PeerError):  # what follows a broken header is not looked at
        decoder.next()
    decoder.close()
    return caught.value.name


def test_the_layout_is_request_flags_size_payload():
    assert encode(Message(8, b"ab")) == bytes.fromhex("08000000 01000000 02000000 6162")


def test_a_message_comes_out_as_it_went_in():
    decoder = Decoder()
    message = Message(spec.FrontendRequest.SET_VRING_NUM, b"12345678", spec.VERSION)
    decoder.feed(encode(message))
    assert decoder.next() == message
    assert decoder.next() is None


def test_need_reply_is_bit_3():
    assert Message(1, flags=0x9).need_reply
    assert not Message(1, flags=0x1).need_reply


def test_size_beyond_the_maximum():
    assert refusal(header(size=spec.MAX_PAYLOAD + 1)) == PeerErrorName.PAYLOAD_TOO_LARGE


def test_size_at_the_maximum_is_waited_for():
    decoder = Decoder()
    decoder.feed(header(size=spec.MAX_PAYLOAD))
    assert decoder.next() is None
    assert decoder.wanted == spec.MAX_PAYLOAD


def test_short_header_waits():
    decoder = Decoder()
    decoder.feed(header()[:11])
    assert decoder.next() is None
    assert decoder.wanted == 1


def test_short_payload_waits():
    decoder = Decoder()
    decoder.feed(header(size=8) + b"1234567")
    assert decoder.next() is None
    assert decoder.wanted == 1
    decoder.feed(b"8")
    assert decoder.next() == Message(1, b"12345678")


@pytest.mark.parametrize(
    ("flags", "size", "replies"),
    [(0x2, 8, False), (0x11, 8, False), (0x5, 8, False), (0x1, 8, True), (0x1, 1 << 20, False)],
    ids=["version", "reserved flags", "reply", "no reply", "size"],
)
def test_a_refused_header_is_shown(flags, size, replies):
    decoder = Decoder(replies=replies)
    decoder.feed(header(flags=flags, size=size))
    with pytest.raises(PeerError) as caught:
        decoder.next()
    assert caught.value.detail == f"request 1, flags {flags:#x}, size {size}"


def test_as_many_fds_as_a_message_may_have_and_one_more():
    fds = [os.eventfd(0) for _ in range(spec.MAX_FDS)]
    decoder = Decoder()
    decoder.feed(header(), fds)
    message = decoder.next()
    assert message is not None and list(message.fds) == fds
    decoder.feed(header()[:1], [*fds, os.eventfd(0)])
    with pytest.raises(PeerError) as caught:
        decoder.next()
    assert caught.value.detail == f"{spec.MAX_FDS + 1} with one message"
    decoder.close()


@pytest.mark.parametrize("flags", [0x0, 0x2, 0x3])
def test_wrong_version(flags):
    assert refusal(header(flags=flags)) == PeerErrorName.HEADER_VERSION


@pytest.mark.parametrize("flags", [0x11, 0x80000001])
def test_reserved_flags(flags):
    assert refusal(header(flags=flags)) == PeerErrorName.HEADER_RESERVED_FLAGS


def test_reply_flag_on_a_request():
    assert refusal(header(flags=0x5)) == PeerErrorName.HEADER_UNEXPECTED_REPLY


def test_a_front_end_takes_replies_only():
    assert refusal(header(flags=0x1), replies=True) == PeerErrorName.HEADER_MISSING_REPLY
    decoder = Decoder(replies=True)
    decoder.feed(header(flags=0x5))
    assert decoder.next() == Message(1, flags=0x5)


def test_more_fds_than_any_message_has():
    fds = [os.eventfd(0) for _ in range(spec.MAX_FDS + 1)]
    assert refusal(header()[:1], fds) == PeerErrorName.FDS_TOO_MANY


def test_fds_of_a_broken_message_are_closed():
    assert refusal(header(flags=0), [os.eventfd(0)]) == PeerErrorName.HEADER_VERSION


def test_fds_of_half_a_message_are_closed():
    decoder = Decoder()
    decoder.feed(header(size=8), [os.eventfd(0)])
    assert decoder.next() is None
    decoder.close()


def test_fds_leave_with_their_message():
    decoder = Decoder()
    fd = os.eventfd(0)
    decoder.feed(header(), [fd])
    assert decoder.next() == Message(1, fds=(fd,))
    decoder.close()
    os.close(fd)  # still open: it was the message's


@given(
    st.lists(
        st.builds(
            Message,
            st.integers(0, 2**32 - 1),
            st.binary(max_size=64),
            st.sampled_from([0x1, 0x9]),
        ),
        max_size=6,
    ),
    st.data(),
)
def test_messages_do_not_depend_on_how_the_stream_is_cut(messages, data):
    stream = b"".join(map(encode, messages))
    decoder, seen = Decoder(), []
    while stream:
        cut = data.draw(st.integers(1, min(decoder.wanted, len(stream))))
        decoder.feed(stream[:cut])
        stream = stream[cut:]
        if (message := decoder.next()) is not None:
            seen.append(message)
    assert seen == messages


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_raise_nothing_but_peer_errors(stream):
    decoder = Decoder()
    decoder.feed(stream)
    try:
        while decoder.next() is not None:
            pass
    except PeerError as error:
        assert error.name in set(PeerErrorName)
