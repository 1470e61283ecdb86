# SPDX-License-Identifier: Apache-2.0
"""What comes as bytes or text: a worker's reports, the switch's answers, the front-end's stream.

Pure Python, which does not crash; here an exception without a name would end a daemon that serves
all ports, or a worker.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from contextlib import suppress
from typing import Any, get_args

from hypothesis import given
from hypothesis import strategies as st
from support.fuzz.fuzz_profile import examples
from support.fuzz.json_events import EVENTS, JSON

from ovs_vhost_plugin import render
from ovs_vhost_plugin.daemon import status
from ovs_vhost_plugin.ipc import reports
from ovs_vhost_plugin.ipc.channel import ChannelBroken, ChannelClosed, _decode
from ovs_vhost_plugin.ipc.codec import MessageError
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.openflow.session import OpenFlowSession
from ovs_vhost_plugin.openflow.wire import OpenFlowError, OpenFlowErrorName
from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.fds.closing import close_fds
from ovs_vhost_plugin.vhost.message import Message, encode
from ovs_vhost_plugin.vhost.transport import Connection
from ovs_vhost_plugin.vswitchd import fdb, trace
from ovs_vhost_plugin.vswitchd.link import LinkLost
from ovs_vhost_plugin.vswitchd.unixctl import Answer, NoAnswer, parse_answer


def changed(value: Any, path: list[int], new: Any) -> Any:
    """`value` with what `path` leads to replaced by `new`, or more of it."""
    if not path or not isinstance(value, dict | list) or not value:
        return new
    if isinstance(value, dict):
        key = sorted(value)[path[0] % len(value)]
        return {**value, key: changed(value[key], path[1:], new)}
    at = path[0] % len(value)
    return [*value[:at], changed(value[at], path[1:], new), *value[at + 1 :]]


EVENT = st.builds(
    changed, st.sampled_from(EVENTS), st.lists(st.integers(0, 9), min_size=1, max_size=4), JSON
)


def test_every_report_is_among_the_examples() -> None:
    assert {reports.kind_of(event) for event in EVENTS} == set(get_args(reports.Report))
    assert all(reports.decode(event) for event in EVENTS)


@examples(500)
@given(event=EVENT)
def test_what_a_worker_says_is_a_report_that_can_be_shown(event: Any) -> None:
    """Through the channel's JSON, and on to all that a report is used for."""
    try:
        report = reports.decode(_decode(json.dumps(event).encode(), 0))
    except (MessageError, ChannelBroken):
        return
    match report:
        case reports.Rarp(mac, at):
            assert len(mac) == 6 and 0 <= at <= 2.0**53
        case reports.Stats(_, stats):
            text = render.stats({"ports": {"vhu0": stats}, "missing": []})
            assert "\x1b" not in text
            json.loads(render.as_json(stats), parse_constant=lambda _: 1 / 0)
        case reports.PortState():
            report.has(1)
            for value in status.of_state(report, "").values():
                assert value.isascii() and value.isprintable()


@examples(150)
@given(packet=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_packet_of_a_worker(packet: bytes) -> None:
    with suppress(ChannelClosed, MessageError):
        reports.decode(_decode(packet, 0))


# -- the switch ----------------------------------------------------------------------------------

HELLO = struct.pack("!BBHIHHI", 4, 0, 16, 1, 1, 8, 1 << 4)
OPENFLOW = st.builds(
    lambda version, type_, length, xid, body: (
        struct.pack("!BBHI", version, type_, min(0xFFFF, max(0, 8 + len(body) + length)), xid)
        + body
    ),
    st.just(4) | st.integers(0, 255),
    st.sampled_from([0, 1, 2, 3, 10, 21]) | st.integers(0, 255),
    st.sampled_from([0, 0, 0, 0, -9, -1, 1, 60000]),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=40) | st.builds(struct.pack, st.just("!HH"), *[st.integers(0, 20)] * 2),
)


@examples(200)
@given(pieces=st.lists(OPENFLOW | st.just(HELLO) | st.binary(max_size=20)), cut=st.integers(1, 70))
def test_any_bytes_of_a_switch(pieces: list[bytes], cut: int) -> None:
    session, stream = OpenFlowSession(), b"".join(pieces)
    try:
        for at in range(0, len(stream), cut):
            session.feed(stream[at : at + cut])
            # What it answers is bounded by what it got: an echo, and never more.
            assert len(session.data_to_send()) <= 16 + at + cut
            if session.version is not None:
                session.packet_out(1, bytes(60))
                session.barrier()
                session.data_to_send()
    except OpenFlowError as error:
        assert error.name in OpenFlowErrorName


TABLE = " port  VLAN  MAC                Age\n    1     0  52:54:00:12:34:56   12\n"
TRACED = "output:NXM_NX_REG0[]\n -> output port is 1\nDatapath actions: push_vlan(vid=1),2\n"
GARBLED = st.lists(
    st.sampled_from([TABLE, TRACED, "\n", " ", "    1     0  ", "52:54:00:12:34:56", "static", ":"])
    | st.sampled_from(["9" * 5000, "-1", "٣", "a::::::::::::::::", " -> output port is ", "drop"])
    | st.text(max_size=9),
    max_size=12,
).map("".join)


@examples(150)
@given(text=GARBLED)
def test_any_text_of_a_switch(text: str) -> None:
    for ofport in (1, 65279):
        fdb.on_port(text, {ofport})
        fdb.missing(fdb.entries_of(text, bytes.fromhex("525400123456")), {ofport}, 0)
        trace.missing(text, {ofport})
    trace.stopped(text)


@examples(150)
@given(data=JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40))
def test_any_answer_of_the_control_socket(data: bytes) -> None:
    with suppress(LinkLost):
        answer = parse_answer(data, 1)
        assert answer is None or isinstance(answer, Answer | NoAnswer)


# -- the front-end's stream ----------------------------------------------------------------------

GOOD = st.builds(
    lambda request, flags, payload: encode(Message(request, payload, flags)),
    st.integers(1, 43),
    st.sampled_from([1, 9]),
    st.binary(max_size=40),
)
HEADER = st.builds(
    spec.HEADER.pack,
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 3, 5, 9, 0x11]) | st.integers(0, 2**32 - 1),
    st.sampled_from([0, 8, 4096, 4097, 2**32 - 1]),
)
PIECE = st.tuples(st.one_of(GOOD, GOOD, HEADER, st.binary(max_size=30)), st.integers(0, 9))


def count_fds() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (names only)


@examples(100)
@given(pieces=st.lists(PIECE, max_size=12), cuts=st.lists(st.integers(1, 30), max_size=8))
def test_any_stream_with_fds_anywhere(pieces: list[tuple[bytes, int]], cuts: list[int]) -> None:
    """However it is cut: the same messages up to the first wrong one, and no fd stays open."""
    before = count_fds()
    whole = read_all([(data, 0) for data, _ in pieces])
    stream = b"".join(data for data, _ in pieces)
    parts: list[tuple[bytes, int]] = []
    for cut in cuts:
        parts.append((stream[:cut], 0))
        stream = stream[cut:]
    assert read_all([*parts, (stream, 0)]) == whole
    read_all(pieces)
    wait_until(lambda: count_fds() == before, "all is closed: the connections, by threads")


def read_all(pieces: list[tuple[bytes, int]]) -> tuple[list[bytes], str]:
    """The messages of a stream, and how it ended."""
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    connection = Connection(ours)
    messages: list[bytes] = []
    try:
        for data, count in pieces:
            if data:
                fds = [os.eventfd(0) for _ in range(count)]
                socket.send_fds(theirs, [data], fds)
                close_fds(fds)
            for message in connection.receive():
                close_fds(message.fds)
                messages.append(encode(message))
    except PeerError as error:
        assert error.name in set(PeerErrorName)
        return messages, error.name
    finally:
        theirs.close()
        connection.close()
    return messages, ""
