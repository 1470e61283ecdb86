# SPDX-License-Identifier: Apache-2.0
"""OpenFlow's bytes: cut into messages, read, and refused with what was seen."""

import struct

import pytest

from ovs_vhost_plugin.openflow import wire
from ovs_vhost_plugin.openflow.wire import (
    LONGEST_FRAME,
    Framer,
    OpenFlowError,
    OpenFlowMessage,
    Output,
    Version,
)

FRAME = bytes(60)


def hello(*elements: bytes, version: int = 4) -> OpenFlowMessage:
    """A HELLO of `elements`, each padded to 8 bytes as 7.5.1 wants it."""
    body = b"".join(one.ljust(-(-len(one) // 8) * 8, b"\0") for one in elements)
    return OpenFlowMessage(version, 0, 1, body)


def bitmap(*words: int) -> bytes:
    return struct.pack(f"!HH{len(words)}I", 1, 4 + 4 * len(words), *words)


def unknown(length: int) -> bytes:
    return struct.pack("!HH", 99, length).ljust(length, b"x")


def test_versions_are_called_as_people_do():
    assert [str(version) for version in Version] == [f"OpenFlow 1.{minor}" for minor in range(6)]


def test_a_message_is_held_back_until_it_is_whole():
    framer = Framer()
    first, second = wire.encode(4, 2, 1, b"abcdefgh"), wire.encode(4, 2, 2, b"ijkl")
    assert framer.feed(first + second[:-1]) == [OpenFlowMessage(4, 2, 1, b"abcdefgh")]
    assert framer.feed(second[-1:]) == [OpenFlowMessage(4, 2, 2, b"ijkl")]


@pytest.mark.parametrize(
    ("message", "versions"),
    [
        (hello(bitmap(1 << 31 | 1 << 4)), {4, 31}),
        (hello(bitmap(1 << 4, 0xFFFFFFFF)), {4}),  # of 32 and more none is spoken here
        (hello(version=3), {1, 2, 3}),
        (hello(unknown(4), bitmap(1 << 2)), {2}),
        (hello(unknown(8), bitmap(1 << 2)), {2}),
        (hello(unknown(9), unknown(12), bitmap(1 << 2), version=5), {2}),
    ],
)
def test_the_versions_that_a_hello_tells(message, versions):
    assert wire.hello_versions(message) == versions


@pytest.mark.parametrize("length", [0, 3, 13])
def test_an_element_that_cannot_be_so_long(length):
    element = struct.pack("!HH", 1, length) + bytes(8)
    with pytest.raises(OpenFlowError, match=f"^hello-element: length {length}$"):
        wire.hello_versions(OpenFlowMessage(4, 0, 1, element))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: wire.packet_out(Version.OF13, 1, 0, Output.TABLE, FRAME), "in-port: 0"),
        (lambda: wire.packet_to(Version.OF13, 1, 0xFF00, FRAME), "out-port: 65280"),
        (lambda: wire.packet_to(Version.OF13, 1, 1, bytes(13)), "frame-length: 13"),
        (
            lambda: wire.packet_to(Version.OF13, 1, 1, bytes(LONGEST_FRAME + 1)),
            f"frame-length: {LONGEST_FRAME + 1}",
        ),
        (lambda: wire.error_fields(OpenFlowMessage(4, 1, 1, b"abc")), "error-length: 3"),
    ],
)
def test_a_refusal_says_what_was_seen(make, text):
    with pytest.raises(OpenFlowError) as refused:
        make()
    assert str(refused.value) == text


def test_a_header_is_a_frame():
    assert wire.packet_to(Version.OF13, 1, 1, FRAME[:14]).endswith(FRAME[:14])
