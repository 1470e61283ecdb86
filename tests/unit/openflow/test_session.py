# SPDX-License-Identifier: Apache-2.0
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.openflow import wire
from ovs_vhost_plugin.openflow.session import Barrier, ErrorReply, Negotiated, OpenFlowSession
from ovs_vhost_plugin.openflow.wire import LONGEST_FRAME, OpenFlowError, Output, Version

FRAME = bytes(range(60))


def hello_from_switch(*versions: int) -> bytes:
    bitmap = sum(1 << version for version in versions)
    return struct.pack("!BBHIHHI", max(versions), 0, 16, 1, 1, 8, bitmap)


def negotiated(version: int) -> OpenFlowSession:
    session = OpenFlowSession()
    assert session.feed(hello_from_switch(version)) == [Negotiated(Version(version))]
    session.data_to_send()
    return session


def test_hello_offers_every_version_in_the_bitmap():
    assert OpenFlowSession().data_to_send() == bytes.fromhex("06000010 00000001 0001 0008 0000007e")


@pytest.mark.parametrize(
    ("hello", "version"),
    [
        (hello_from_switch(1, 4, 6), Version.OF15),
        (hello_from_switch(4), Version.OF13),
        (hello_from_switch(5, 9), Version.OF14),  # a future version beside an old one
        (struct.pack("!BBHI", 1, 0, 8, 7), Version.OF10),
        (struct.pack("!BBHI", 4, 0, 8, 7), Version.OF13),  # no bitmap: all up to 1.3
        (struct.pack("!BBHIHH4x", 3, 0, 16, 7, 99, 8), Version.OF12),  # an unknown element
        # the padding of an element is not in its length
        (struct.pack("!BBHIHHB3xHHI", 6, 0, 24, 7, 99, 5, 0, 1, 8, 1 << 2), Version.OF11),
    ],
)
def test_the_highest_common_version_is_chosen(hello, version):
    session = OpenFlowSession()
    assert session.feed(hello) == [Negotiated(version)]
    assert session.version is version


# Written out by hand from the specifications: 1.0.0 5.3.6, 1.1.0 A.3.7, 1.5.1 7.3.6.
GOLDEN = {
    1: "01 0d 0054 00000002  ffffffff 0007 0008  0000 0008 {port10} 0000  ",
    2: "02 0d 0064 00000002  ffffffff 00000007 0010 000000000000"
    "  0000 0010 {port11} 0000 000000000000  ",
    6: "06 0d 006c 00000002  ffffffff 0010 0000  0001 000c 80000004 00000007 00000000"
    "  0000 0010 {port11} 0000 000000000000  ",
}


@pytest.mark.parametrize("version", list(Version))
@pytest.mark.parametrize(
    ("output", "port10", "port11"),
    [(Output.TABLE, "fff9", "fffffff9"), (Output.NORMAL, "fffa", "fffffffa")],
    ids=["table", "normal"],
)
def test_packet_out_is_as_the_specification_draws_it(version, output, port10, port11):
    layout = GOLDEN[version if version in (1, 6) else 2].format(port10=port10, port11=port11)
    expected = bytearray(bytes.fromhex(layout) + FRAME)
    expected[0] = version
    session = negotiated(version)
    assert session.packet_out(7, FRAME, output) == 2
    assert session.data_to_send() == bytes(expected)


@pytest.mark.parametrize("version", list(Version))
def test_barrier_is_told_from_its_reply_in_every_version(version):
    session = negotiated(version)
    xid = session.barrier()
    request = session.data_to_send()
    assert request == struct.pack("!BBHI", version, 18 if version == 1 else 20, 8, xid)
    reply = struct.pack("!BBHI", version, 19 if version == 1 else 21, 8, xid)
    assert session.feed(reply) == [Barrier(xid)]


def test_echo_is_answered_with_its_data_and_xid():
    session = negotiated(4)
    assert session.feed(struct.pack("!BBHI3s", 4, 2, 11, 77, b"abc")) == []
    assert session.data_to_send() == struct.pack("!BBHI3s", 4, 3, 11, 77, b"abc")


def test_messages_that_were_not_asked_for_are_passed_over():
    session = negotiated(4)
    packet_in = wire.encode(4, 10, 0, bytes(40))
    barrier = wire.encode(4, 21, 5)
    assert session.feed(packet_in + barrier) == [Barrier(5)]


def test_messages_may_come_in_any_pieces():
    session = OpenFlowSession()
    data = hello_from_switch(4) + wire.encode(4, 21, 9)
    events = [event for byte in data for event in session.feed(bytes([byte]))]
    assert events == [Negotiated(Version.OF13), Barrier(9)]


@pytest.mark.parametrize(
    ("type_", "code", "name"),
    [
        (1, 11, "BAD_REQUEST/BAD_PORT"),
        (2, 4, "BAD_ACTION/BAD_OUT_PORT"),
        (1, 99, "BAD_REQUEST/code 99"),
        (42, 3, "type 42/code 3"),
    ],
)
def test_errors_are_named_where_a_name_is_known(type_, code, name):
    error = wire.encode(4, 1, 31, struct.pack("!HH", type_, code) + b"the request")
    assert negotiated(4).feed(error) == [ErrorReply(31, type_, code, name)]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (struct.pack("!BBHI", 4, 0, 7, 0), "message-length: 7"),
        (struct.pack("!BBHI", 4, 2, 8, 0), "hello-expected: type 2"),
        (hello_from_switch(7, 9), "no-common-version: wire versions 7, 9"),
        (struct.pack("!BBHIHH", 4, 0, 12, 0, 1, 3), "hello-element: length 3"),
        (struct.pack("!BBHIHH", 4, 0, 12, 0, 1, 8), "hello-element: length 8"),
        (struct.pack("!BBHIH", 4, 1, 10, 0, 1), "error-length: 2"),
        (struct.pack("!BBHIHH", 4, 1, 12, 0, 0, 0), "hello-failed: HELLO_FAILED/INCOMPATIBLE"),
        (hello_from_switch(4) + struct.pack("!BBHI", 5, 2, 8, 0), "message-version: 5"),
    ],
)
def test_what_breaks_the_protocol_is_named(data, text):
    with pytest.raises(OpenFlowError) as error:
        OpenFlowSession().feed(data)
    assert str(error.value) == text


def test_a_failed_hello_says_why_in_the_switchs_words():
    data = wire.encode(4, 1, 0, struct.pack("!HH", 0, 0) + b"we speak 1.3 only\0")
    with pytest.raises(OpenFlowError, match=r"HELLO_FAILED/INCOMPATIBLE we speak 1\.3 only$"):
        OpenFlowSession().feed(data)


@pytest.mark.parametrize(
    ("said", "text"),
    [(b"no \xff\0\0", "no \ufffd"), (b"X" * 200 + b"Y", "X" * 200), (b"XX\0", "XX")],
    ids=["not ASCII", "long", "short"],
)
def test_the_switchs_words_are_told_as_far_as_they_can_be(said, text):
    data = wire.encode(4, 1, 0, struct.pack("!HH", 0, 1) + said)
    with pytest.raises(OpenFlowError) as error:
        OpenFlowSession().feed(data)
    assert str(error.value) == f"hello-failed: HELLO_FAILED/EPERM {text}"


def test_the_number_of_a_request_is_never_zero_nor_too_large():
    session = negotiated(4)
    session._xid = 0xFFFFFFFE  # four billion requests later
    assert [session.barrier() for _ in range(3)] == [0xFFFFFFFF, 1, 2]


@pytest.mark.parametrize("in_port", [-1, 0, 0xFF00, 0xFFFE, 0xFFFFFFFD])
def test_a_port_that_ovs_would_pass_over_in_silence_is_refused(in_port):
    with pytest.raises(OpenFlowError) as error:
        negotiated(6).packet_out(in_port, FRAME)
    assert error.value.name == "in-port"


@pytest.mark.parametrize("version", list(Version))
@pytest.mark.parametrize(("port", "port16"), [(7, "0007"), (Output.NORMAL, "fffa")])
def test_a_packet_out_to_a_port_came_in_nowhere(version, port, port16):
    session = negotiated(version)
    session.packet_to(port, FRAME)
    data = session.data_to_send()
    head = data[: -len(FRAME)].hex()
    assert data.endswith(FRAME) and len(data) == int(head[4:8], 16)
    wide = ("ffff" if port is Output.NORMAL else "0000") + port16
    if version == Version.OF10:
        assert head.endswith("fffd" + "0008" + "00000008" + port16 + "0000")
    else:
        assert "fffffffd" in head and head.endswith("00000010" + wide + "0000" + 6 * "00")


@pytest.mark.parametrize("port", [-1, 0, 0xFF00, Output.TABLE, 0xFFFFFFFC])
def test_a_port_to_send_to_is_a_port(port):
    with pytest.raises(OpenFlowError) as error:
        negotiated(6).packet_to(port, FRAME)
    assert error.value.name == "out-port"


@pytest.mark.parametrize("version", list(Version))
def test_the_longest_frame_fits_a_message(version):
    session = negotiated(version)
    session.packet_to(1, bytes(LONGEST_FRAME))
    assert len(session.data_to_send()) <= 0xFFFF
    with pytest.raises(OpenFlowError, match="frame-length"):
        session.packet_to(1, bytes(LONGEST_FRAME + 1))


def test_a_frame_without_a_whole_header_is_refused():
    with pytest.raises(OpenFlowError) as error:
        negotiated(6).packet_out(1, FRAME[:13])
    assert error.value.name == "frame-length"


def test_nothing_is_sent_before_the_version_is_known():
    session = OpenFlowSession()
    for call in (session.barrier, lambda: session.packet_out(1, FRAME)):
        with pytest.raises(OpenFlowError) as error:
            call()
        assert error.value.name == "not-negotiated"


def headers(version: st.SearchStrategy[int]) -> st.SearchStrategy[bytes]:
    """Messages with a plausible header and any body, so that the decoders behind it are reached."""
    types = st.sampled_from([0, 1, 2, 3, 13, 19, 21]) | st.integers(0, 255)
    return st.builds(
        lambda version, type_, xid, body: wire.encode(version, type_, xid, body),
        version,
        types,
        st.integers(0, 2**32 - 1),
        st.binary(max_size=40),
    )


@given(
    st.lists(st.binary(max_size=60) | headers(st.integers(0, 255)) | headers(st.just(4))),
    st.booleans(),
)
def test_no_bytes_raise_anything_but_the_named_error(pieces, after_hello):
    session = negotiated(4) if after_hello else OpenFlowSession()
    try:
        for piece in pieces:
            session.feed(piece)
    except OpenFlowError as error:
        assert error.name in wire.OpenFlowErrorName
