# SPDX-License-Identifier: Apache-2.0
"""A port is the same after it was handed over, and what a hostile worker gives is refused."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.worker.handover_port import NOW, SIZE, SPEC, HandoverPort, running

from ovs_vhost_plugin.ipc.codec import MessageError
from ovs_vhost_plugin.ipc.spec import Inheritance
from ovs_vhost_plugin.jit import layout
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.spec import Feature, FrontendRequest
from ovs_vhost_plugin.worker.device.ring import RingPhase
from ovs_vhost_plugin.worker.handover import take
from ovs_vhost_plugin.worker.handover.give import given
from ovs_vhost_plugin.worker.handover.messages import (
    FROM_PREDECESSOR,
    FromPredecessor,
    GivenFrontEnd,
    GivenPair,
    GivenPort,
    GivenRequest,
    GivenRing,
)
from ovs_vhost_plugin.worker.handover.take import Estate
from ovs_vhost_plugin.worker.handover.wire import HandoverError

All = list[tuple[FromPredecessor, Sequence[int]]]


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[list[HandoverPort]]:
    made: list[HandoverPort] = []
    yield made
    for port in made:
        port.close()


@pytest.fixture
def before(ports: list[HandoverPort], tmp_path: Path) -> HandoverPort:
    """A port with a running guest, whose rings stand still for the handover."""
    ports.append(running(HandoverPort(tmp_path)))
    return ports[-1]


def all_of(port: HandoverPort) -> All:
    """Everything that a worker gives, over the wire, with fds of the receiver's own."""
    port.parts.device.rings.stand_still()
    return [
        (
            FROM_PREDECESSOR.decode(json.loads(json.dumps(FROM_PREDECESSOR.encode(message)))),
            [os.dup(fd) for fd in fds],
        )
        for message, fds in given(port.parts, NOW)
    ]


def taken(ports: list[HandoverPort], everything: All) -> HandoverPort:
    """A worker that has taken everything, and does not run yet."""
    (port, (control, journal, listener, *queues)), *rest = everything
    assert isinstance(port, GivenPort)
    estate = Estate(port, Inheritance(control, listener, queues[0], journal), tuple(queues))
    for message, fds in rest:
        match message:
            case GivenFrontEnd():
                estate.front_end = message, fds[0]
            case GivenRequest(request, payload):
                estate.requests.append(Message(request, payload, fds=tuple(fds)))
            case GivenRing():
                estate.rings.append(message)
            case GivenPair():
                estate.pairs.append(message)
    for fd in queues:
        os.close(fd)
    made = HandoverPort(Path(), state=estate.tap, fds=(control, listener, journal))
    ports.append(made)
    take.prepare(made.parts, estate, SPEC, NOW)
    return made


def identities(everything: All) -> list[Any]:
    """What was given, with the files behind the fds in place of their numbers."""
    return [
        (message, [os.fstat(fd)[1:3] for fd in fds[: None if n else 3]])
        for n, (message, fds) in enumerate(everything)
    ]


def closed(everything: All) -> None:
    for _, fds in everything:
        for fd in fds:
            os.close(fd)


def test_what_was_taken_would_be_given_on_the_same(
    ports: list[HandoverPort], before: HandoverPort
) -> None:
    first = all_of(before)
    names = [message.WIRE_NAME for message, _ in first]
    assert names.count("request") > 15 and names.count("ring") == 4
    expected = identities(first)
    after = taken(ports, first)
    again = all_of(after)
    assert identities(again) == expected
    closed(again)


def test_rings_begin_where_they_stood_and_nobody_is_told(
    ports: list[HandoverPort], before: HandoverPort
) -> None:
    everything = all_of(before)
    stood = [ring.position for ring in before.pairs[0].rings]
    assert all(stood)
    after = taken(ports, everything)
    assert not after.pairs[0].running, "not before the commit"
    carrier, discarded = after.taps.carrier, after.taps.discarded
    after.parts.device.start_pending()
    assert after.pairs[0].running and not after.pairs[1].running
    assert [ring.position for ring in after.pairs[0].rings] == stood
    assert [ring.phase for ring in after.pairs[0].rings] == [RingPhase.RUNNING] * 2
    assert after.observer.news == [], "no start is reported: the guest has not moved"
    assert (after.taps.carrier, after.taps.discarded) == (carrier, discarded) == (True, 0)
    assert after.parts.front_end.status == "running"
    assert after.parts.device.mtu == 1400


def test_counts_and_frames_that_wait_go_along(
    ports: list[HandoverPort], before: HandoverPort
) -> None:
    pair = before.pairs[0]
    pair._net.counters["tx_packets"] = 77
    pair._net.faults[Fault.KICK_NOT_EVENTFD] = 2
    frame = bytes(12) + b"a frame that waits for buffers"
    pair._net.pending[: len(frame)] = list(frame)
    pair._net.state["rx_pending"], pair._net.state["rx_pending_until"] = len(frame), 123456
    pair.used = True
    after = taken(ports, all_of(before)).pairs[0]
    assert after.counts == pair.counts and after.counters["tx_packets"] == 77
    assert after.pending == (frame, 123456)
    assert int(after._net.state["cfg_header_size"][0]) == 12, "or the frame would be dropped"


def test_a_connection_that_is_taken_over_is_answered(
    ports: list[HandoverPort], before: HandoverPort
) -> None:
    after = taken(ports, all_of(before))
    peer = before.peers[0]
    peer.sendall(spec.HEADER.pack(FrontendRequest.GET_FEATURES, spec.VERSION, 0))
    for key, _ in after.selector.select(1):
        key.data(NOW)
    peer.settimeout(5)
    assert len(peer.recv(64)) == spec.HEADER.size + 8


def changed(everything: All, kind: type, **fields: Any) -> All:
    """The same with other fields in the first message of a kind."""
    at = next(n for n, (message, _) in enumerate(everything) if isinstance(message, kind))
    message, fds = everything[at]
    return [*everything[:at], (replace(message, **fields), fds), *everything[at + 1 :]]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (GivenFrontEnd, {"offer_features": (1 << 64) - 1}),
        (GivenFrontEnd, {"offer_features": Feature.VERSION_1.mask}),
        (GivenFrontEnd, {"offer_protocol_features": 1 << 63}),
        (GivenFrontEnd, {"guest": b"no state"}),
        (GivenRing, {"index": 255}),
        (GivenPair, {"index": 127}),
        (GivenPair, {"pending": bytes(12)}),
        (GivenPair, {"pending": bytes(layout.FRAME_MAX + layout.HEADER_MAX + 1)}),
        (GivenRequest, {"request": 255}),
        (GivenRequest, {"payload": b"short"}),
        (GivenRequest, {"request": FrontendRequest.SET_VRING_NUM}),
    ],
)
def test_lies_are_refused(
    ports: list[HandoverPort], before: HandoverPort, kind: type, fields: dict[str, Any]
) -> None:
    everything = changed(all_of(before), kind, **fields)
    with pytest.raises(HandoverError, match="what is given cannot be used"):
        taken(ports, everything)


@pytest.mark.parametrize("position", [2 * SIZE, 0xFFFF])
def test_a_packed_ring_stands_within_its_ring(
    ports: list[HandoverPort], tmp_path: Path, position: int
) -> None:
    port = HandoverPort(tmp_path)
    ports.append(port)
    port.connect(Feature.VERSION_1, Feature.RING_PACKED)
    port.memory()
    everything = all_of(port)
    ring = GivenRing(0, position, 0, 0, False)
    with pytest.raises(HandoverError, match="cannot stand at"):
        taken(ports, [(m, f) for m, f in everything if not isinstance(m, GivenRing)] + [(ring, [])])


@pytest.mark.parametrize(
    "request_", [FrontendRequest.SET_MEM_TABLE, FrontendRequest.SET_VRING_KICK]
)
def test_fds_of_a_wrong_kind_are_refused(
    ports: list[HandoverPort], before: HandoverPort, request_: FrontendRequest
) -> None:
    everything = all_of(before)
    for message, fds in everything:
        if isinstance(message, GivenRequest) and message.request == request_:
            reader, writer = os.pipe()
            os.dup2(reader, fds[0])
            os.close(reader)
            os.close(writer)
            break
    with pytest.raises(HandoverError, match=r"kind|eventfd"):
        taken(ports, everything)


def test_every_field_is_of_its_type(before: HandoverPort) -> None:
    everything = all_of(before)
    closed(everything)
    seen = set()
    for message, _ in everything:
        said = FROM_PREDECESSOR.encode(message)
        for field in said.keys() - {"says"}:
            seen.add(field)
            with pytest.raises(MessageError):
                FROM_PREDECESSOR.decode({**said, field: {"no": ["such"]}})
            with pytest.raises(MessageError):
                FROM_PREDECESSOR.decode({k: v for k, v in said.items() if k != field})
    assert len(seen) > 40


# -- before anything is taken ---------------------------------------------------------------------


def receive(*messages: tuple[FromPredecessor | dict[str, Any], Sequence[int]]) -> Estate:
    """What a successor makes of messages of its predecessor, which then is silent and gone."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    wire: take.Wire = take.HandoverSocket(
        theirs.detach(), take.FROM_SUCCESSOR, take.FROM_PREDECESSOR, most_fds=take.MOST_FDS
    )
    with ours, contextlib.closing(wire):
        for message, fds in messages:
            said = message if isinstance(message, dict) else FROM_PREDECESSOR.encode(message)
            socket.send_fds(ours, [json.dumps(said).encode()], fds)
        ours.shutdown(socket.SHUT_WR)
        return take.receive(wire, SPEC)


PORT = GivenPort(True, (True, False), True, 12, True, 1, 0, 0, 0, {}, "", "", 0, {})


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"says": "no such"},
        {"says": "all"},
        {"says": "commit"},
        FROM_PREDECESSOR.encode(replace(PORT, server=False)),
        FROM_PREDECESSOR.encode(replace(PORT, attached=())),
        FROM_PREDECESSOR.encode(replace(PORT, attached=(True,) * 3)),
        FROM_PREDECESSOR.encode(PORT),
    ],
)
def test_a_port_comes_first_and_with_its_fds(said: dict[str, Any]) -> None:
    with pytest.raises(HandoverError):
        receive((said, []))


def test_the_fds_of_a_port_are_its_own(before: HandoverPort) -> None:
    """A listener listens, and the queues are of the port's tap: these are eventfds."""
    parts = before.parts
    assert parts.listener is not None
    fds = [parts.control.fileno(), parts.journal, parts.listener.fileno(), *before.tap_fds]
    with pytest.raises(HandoverError, match="a tap is none"):
        receive((PORT, fds))
    for place, error in ((0, "listener"), (2, "listener")):
        wrong = [*fds[:place], before.tap_fds[0], *fds[place + 1 :]]
        with pytest.raises(HandoverError, match=error):
            receive((PORT, wrong))
    swapped = [fds[2], fds[1], fds[0], *fds[3:]]
    with pytest.raises(HandoverError, match="listener"):
        receive((PORT, swapped))
