# SPDX-License-Identifier: Apache-2.0
"""A new worker takes a port over from its predecessor, which it does not trust.

First everything is received, then a worker is made of it, whose rings do not run; then the
predecessor is told so. The rings run once it says `Commit`. If it closes the socket instead, it
serves the guest on, and this process ends.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from ovs_vhost_plugin.ipc.spec import Inheritance, PortSettings, WorkerSpec
from ovs_vhost_plugin.jit.layout import FRAME_MAX
from ovs_vhost_plugin.vhost.errors import PeerError
from ovs_vhost_plugin.vhost.fds.kind import Kind, kind_of
from ovs_vhost_plugin.vhost.features import Nic, Offer, offer
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.session import Session
from ovs_vhost_plugin.worker.device.queuepair import PairCounts
from ovs_vhost_plugin.worker.handover.messages import (
    FROM_PREDECESSOR,
    FROM_SUCCESSOR,
    MOST_FDS,
    Commit,
    FromPredecessor,
    FromSuccessor,
    GivenAll,
    GivenBacklog,
    GivenFrontEnd,
    GivenPair,
    GivenPort,
    GivenRequest,
    GivenRing,
    SuccessorPrepared,
    SuccessorReady,
    SuccessorRefuses,
)
from ovs_vhost_plugin.worker.handover.parts import Parts
from ovs_vhost_plugin.worker.handover.wire import HandoverError, HandoverSocket, PeerGoneError
from ovs_vhost_plugin.worker.learned import savedstate
from ovs_vhost_plugin.worker.tap import queues
from ovs_vhost_plugin.worker.tap.queues import TapState

PATIENCE = 10.0
"""Seconds for the predecessor to say anything: it has less, and its daemon has about as much."""

MOST_MESSAGES = 8192
"""Of a port with all queue pairs and all memory slots there are some 3,000."""

W = TypeVar("W")
Wire: TypeAlias = HandoverSocket[FromSuccessor, FromPredecessor]


@dataclass(slots=True)
class Estate:
    """All that was given, as it was said: each field is checked, and how they fit together is not.

    taps       all queues of the tap, of which `inheritance` has the first
    front_end  with its socket
    """

    port: GivenPort
    inheritance: Inheritance
    taps: Sequence[int]
    front_end: tuple[GivenFrontEnd, int] | None = None
    requests: list[Message] = field(default_factory=list)
    rings: list[GivenRing] = field(default_factory=list)
    pairs: list[GivenPair] = field(default_factory=list)
    backlogs: list[GivenBacklog] = field(default_factory=list)

    @property
    def tap(self) -> TapState:
        """The tap as the predecessor has left it."""
        port = self.port
        return TapState(port.attached, port.carrier, port.header_size, port.takes_uso)


def over(fd: int, spec: WorkerSpec, make: Callable[[Estate], W]) -> W | None:
    """Take the port of `spec` over by the socket `fd`; return its worker, which is not begun.

    `make` makes the worker, by `prepare`. None: the predecessor keeps the port.
    """
    wire: Wire = HandoverSocket(fd, FROM_SUCCESSOR, FROM_PREDECESSOR, most_fds=MOST_FDS)
    try:
        worker = make(receive(wire, spec))
        wire.send(SuccessorPrepared(), _later())
        message, _ = wire.receive(_later())
        return worker if isinstance(message, Commit) else None
    except PeerGoneError:
        return None  # the predecessor goes on
    except HandoverError as error:
        with contextlib.suppress(HandoverError):
            wire.send(SuccessorRefuses(str(error)[:240]), _later())
        return None
    finally:
        wire.close()


def receive(wire: Wire, spec: WorkerSpec) -> Estate:
    """Ask for all, and receive it. Raises HandoverError."""
    wire.send(SuccessorReady(), _later())
    message, fds = wire.receive(_later())
    if not isinstance(message, GivenPort):
        raise HandoverError("the port comes first")
    estate = _estate(message, fds, spec)
    for _ in range(MOST_MESSAGES):
        message, fds = wire.receive(_later())
        if fds and not isinstance(message, GivenFrontEnd | GivenRequest):
            raise HandoverError(f"{len(fds)} fds that nothing is said of")
        match message:
            case GivenFrontEnd() if estate.front_end is None and len(fds) == 1:
                estate.front_end = message, fds[0]
            case GivenRequest(request, payload):
                estate.requests.append(Message(request, payload, fds=tuple(fds)))
            case GivenRing():
                estate.rings.append(message)
            case GivenPair():
                estate.pairs.append(message)
            case GivenBacklog():
                estate.backlogs.append(message)
            case GivenAll():
                return estate
            case _:
                raise HandoverError(f"{message.WIRE_NAME} at a wrong place")
    raise HandoverError("there is no end to what is given")


def prepare(parts: Parts, estate: Estate, spec: WorkerSpec, now: float) -> None:
    """Fill the parts of a new worker, so that its rings can run. Raises HandoverError."""
    try:
        _fill(parts, estate, spec, now)
    except (PeerError, ValueError, IndexError, OSError) as error:
        raise HandoverError(f"what is given cannot be used: {error}") from None


def _later() -> float:
    return time.monotonic() + PATIENCE


# -- fds ------------------------------------------------------------------------------------------


def _estate(port: GivenPort, fds: Sequence[int], spec: WorkerSpec) -> Estate:
    queues_given = len(port.attached)
    expected = 2 + port.server + queues_given
    if port.server != (spec.mode == "server") or not 0 < queues_given <= spec.queues:
        raise HandoverError("it is another port")
    if len(fds) != expected:
        raise HandoverError(f"{len(fds)} fds, not {expected}")
    control, journal, *rest = fds
    listener = rest.pop(0) if port.server else None
    _require_listener(control, socket.SOCK_SEQPACKET)
    if listener is not None:
        _require_listener(listener, socket.SOCK_STREAM)
    for fd in rest:
        if (found := queues.name_of(fd)) != spec.name:
            raise HandoverError(f"a tap is {found or 'none'}")
    return Estate(port, Inheritance(control, listener, rest[0], journal), tuple(rest))


def _require_listener(fd: int, kind: int) -> None:
    try:
        probe = socket.socket(fileno=fd)
    except OSError:
        raise HandoverError("a listener is no socket") from None
    listens = probe.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    family, has = probe.family, probe.type & 0xF
    probe.detach()
    if (family, has, listens) != (socket.AF_UNIX, kind, 1):
        raise HandoverError("a listener is of another kind")


# -- state ----------------------------------------------------------------------------------------


def _fill(parts: Parts, estate: Estate, spec: WorkerSpec, now: float) -> None:
    port = estate.port
    parts.complaints.counts.update(port.errors)
    if port.error:
        parts.complaints.last = PeerError(port.error, port.error_detail)
    parts.overview.rarps, parts.front_end.connections = port.rarps, port.connections
    parts.device.count_translations_from(port.iotlb_misses, port.iotlb_replaced)
    parts.holding.count_on_from(port.hold, port.held)
    for pair in estate.pairs:
        counts = PairCounts(pair.counters, pair.faults, pair.replaced)
        parts.device.pairs[pair.index].go_on_from(
            counts, pair.pending, pair.until, port.header_size, used=pair.used
        )
    for backlog in estate.backlogs:
        if any(len(frame) > FRAME_MAX for frame in backlog.frames):
            raise ValueError("a frame of the backlog is too long")
        parts.device.pairs[backlog.index].give(backlog.frames)
    if estate.front_end is not None:
        _meet(parts, estate, *estate.front_end, spec, now)


def _meet(
    parts: Parts, estate: Estate, said: GivenFrontEnd, fd: int, spec: WorkerSpec, now: float
) -> None:
    if kind_of(fd) is not Kind.SOCKET:
        raise ValueError("the front-end is no unix socket")
    sock = socket.socket(fileno=fd)
    sock.getpeername()
    offered = _offer(said, spec.queues, spec.settings)
    session = parts.front_end.take_over(sock, offered, min(said.since, now))
    device = parts.device
    device.rings.has_run = True  # no guest is about to run: the tap stays as it is
    for message in estate.requests:
        device.answer(message)
    device.rings.has_run = said.has_run
    _remember(session, said)
    if (memory := device.resources.memory) is not None:
        gone = [(place.guest, place.user, place.size) for place in said.gone]
        device.resources.memory = memory.with_gone(gone)
    for ring in estate.rings:
        _place(parts, session, ring)
    saved = savedstate.decode(said.guest, int(1000 * now))
    parts.addresses.inherit(saved, now)
    if len(said.rarp_mac) == 6:
        parts.state.rarp(said.rarp_mac)


def _offer(said: GivenFrontEnd, queue_pairs: int, settings: PortSettings) -> Offer:
    """The offer that the front-end has, if this release can keep it. Raises ValueError."""
    mac = said.offer_mac if len(said.offer_mac) == 6 else None
    nic = Nic(mac, said.offer_link_up) if said.offer_nic else None
    most = offer(queue_pairs, said.offer_mtu, nic=nic)
    for name, offered, can in (
        ("features", said.offer_features, most.features),
        ("protocol features", said.offer_protocol_features, most.protocol_features),
    ):
        if excess := offered & ~can:
            raise ValueError(f"{name} {excess:#x} were offered, which this release does not have")
    any_memory = said.offer_any_memory and settings.any_memory
    return Offer(
        said.offer_features,
        said.offer_protocol_features,
        queue_pairs,
        said.offer_mtu,
        nic,
        any_memory,
    )


def _remember(session: Session, said: GivenFrontEnd) -> None:
    session.status, session.needs_reset = said.status, said.needs_reset
    session.features_refused, session.refused = said.features_refused, said.refused
    session.counted_pairs, session.enables_unasked = said.counted_pairs, said.enables_unasked
    session.link_up, session.port_mtu = said.link_up, said.port_mtu
    session.guest_mtu = said.guest_mtu
    if len(said.mac) == 6:
        session.mac = said.mac


def _place(parts: Parts, session: Session, said: GivenRing) -> None:
    vring = session.vrings[said.index]
    vring.base, vring.base_told = said.base, said.base_told
    if said.position is None:
        return
    if not vring.size or (session.packed and said.position >= 2 * vring.size):
        raise ValueError(f"vring {said.index} cannot stand at {said.position}")
    ring = parts.device.pairs[said.index // 2].rings[said.index % 2]
    ring.take_over(said.position, said.began)
