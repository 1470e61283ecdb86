# SPDX-License-Identifier: Apache-2.0
"""A worker gives its port to a successor, between two messages of its front-end.

The rings stop, so that everything is whole; all that there is goes to the successor, which checks
and maps it; then this worker decides. Once it has sent `Commit` it touches nothing any more. In any
other case it closes the socket, by which the successor knows that it must not begin, and runs its
rings on. So there is no time at which both serve the guest.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable, Iterator, Sequence

from ovs_vhost_plugin.ipc.channel import HELD_BATCH_BYTES, HELD_BATCH_FRAMES
from ovs_vhost_plugin.ipc.reports import HandedOver
from ovs_vhost_plugin.vhost.features import Nic
from ovs_vhost_plugin.vhost.session import Session
from ovs_vhost_plugin.vhost.spec import Feature
from ovs_vhost_plugin.vhost.state import PostcopyPhase
from ovs_vhost_plugin.worker.device.device import Device
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.handover import replay
from ovs_vhost_plugin.worker.handover.messages import (
    FORMAT,
    FROM_PREDECESSOR,
    FROM_SUCCESSOR,
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
    RegionPlace,
    SuccessorPrepared,
    SuccessorReady,
    SuccessorRefuses,
)
from ovs_vhost_plugin.worker.handover.parts import Parts
from ovs_vhost_plugin.worker.handover.wire import HandoverError, HandoverSocket
from ovs_vhost_plugin.worker.learned import savedstate

BIRTH_PATIENCE = 5.0
"""Seconds for the successor to be born. Meanwhile the rings run."""
LULL_PATIENCE = 0.25
"""Seconds in which a worker that is busy may come to the end of it. Meanwhile the rings run.

A guest behind an IOMMU has a question under way for much of the time, each for less than that.
"""
PATIENCE, PATIENCE_PER_PAIR = 1.0, 0.02
"""Seconds that the rings may stand still, and more for each queue pair."""
_POSTCOPY = (PostcopyPhase.ADVISED, PostcopyPhase.LISTENING)

Given = tuple[FromPredecessor, Sequence[int]]


class Giving:
    """The handovers of one worker, at most one at a time. Once `done`, the worker has to end."""

    def __init__(
        self, parts: Parts, selector: selectors.BaseSelector, clock: Callable[[], float]
    ) -> None:
        self.done = False
        self._parts = parts
        self._selector = selector
        self._clock = clock
        self._socket: HandoverSocket[FromPredecessor, FromSuccessor] | None = None
        self._number = 0
        self._until: float | None = None
        self._successor_is_ready = False

    def begin(self, number: int, fd: int) -> None:
        """Await the successor on the socket `fd`, which this takes, for the request `number`."""
        if self._socket is not None:
            self._answer("failed", "another handover was asked for")
        self._number, self._until = number, self._clock() + BIRTH_PATIENCE
        self._socket = HandoverSocket(fd, FROM_PREDECESSOR, FROM_SUCCESSOR, most_fds=0)
        self._selector.register(self._socket, selectors.EVENT_READ, self._heard)

    def get_timer(self) -> float | None:
        """The time until which a successor or a lull is awaited; None: none is."""
        return self._until

    def handle_timer(self, now: float) -> None:
        """Hand over in a lull; give up a successor that does not come, or a lull."""
        if self._socket is None or self._until is None:
            return
        if not self._successor_is_ready:
            if now >= self._until:
                self._answer("failed", "its successor does not come")
        elif not (why := busy_with(self._parts)):
            self._hand_over(self._socket)
        elif now >= self._until:
            self._answer("busy", why)

    def _answer(self, outcome: str, why: str = "") -> None:
        """Close the socket, and report."""
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
        self._socket, self._until, self._successor_is_ready = None, None, False
        self._parts.outbox.tell(HandedOver(self._number, outcome, why[:240]))

    def _heard(self, now: float) -> None:
        assert self._socket is not None
        try:
            self._require_ready(self._socket, now)
        except HandoverError as error:
            self._answer("failed", str(error))
            return
        self._successor_is_ready, self._until = True, now + LULL_PATIENCE

    def _require_ready(
        self, sock: HandoverSocket[FromPredecessor, FromSuccessor], now: float
    ) -> None:
        match sock.receive(now)[0]:
            case SuccessorReady(theirs) if theirs == FORMAT and not self._successor_is_ready:
                return
            case SuccessorReady() if self._successor_is_ready:
                raise HandoverError("its successor is ready twice")
            case SuccessorReady(theirs):
                raise HandoverError(f"its successor takes form {theirs}, not {FORMAT}")
            case SuccessorRefuses(why):
                raise HandoverError(why)
        raise HandoverError("its successor is not ready")

    def _hand_over(self, sock: HandoverSocket[FromPredecessor, FromSuccessor]) -> None:
        device = self._parts.device
        pairs = len(device.pairs)
        device.rings.stand_still()
        try:
            self._exchange(sock, self._clock() + PATIENCE + PATIENCE_PER_PAIR * pairs)
        except Exception as error:  # whatever it is, the guest's rings have to run on
            self._answer("failed", str(error))
            device.go_on()
        else:
            self.done = True
            self._answer("done")

    def _exchange(self, sock: HandoverSocket[FromPredecessor, FromSuccessor], until: float) -> None:
        for message, fds in given(self._parts, self._clock()):
            sock.send(message, until, fds)
        match sock.receive(until)[0]:
            case SuccessorPrepared():
                sock.send(Commit(), until)
            case SuccessorRefuses(why):
                raise HandoverError(why)
            case _:
                raise HandoverError("its successor says something else")


def busy_with(parts: Parts) -> str:
    """The obstacle to a handover now; "": there is none."""
    if not parts.front_end.idle:
        return "a message of the front-end is half received or half sent"
    if not parts.outbox.idle:
        return "reports to the daemon wait"
    if parts.holding.active:
        return "frames of a guest that has left are held"
    if parts.gate.early or parts.gate.awaited:
        return "a guest is about to run"
    if parts.state.busy:
        return "the device's state is being moved"
    session = parts.front_end.session
    return "" if session is None else _device_busy_with(parts.device, session)


def _device_busy_with(device: Device, session: Session) -> str:
    if device.resources.pages_missing or session.postcopy in _POSTCOPY:
        return "postcopy is under way"
    if device.resources.has(Feature.ACCESS_PLATFORM) and not device.channel.is_open:
        return "there is no channel to ask for translations"
    if not device.channel.idle:
        return "a request to the front-end is unanswered"
    return "a ring is broken" if device.rings.broken else ""


def given(parts: Parts, now: float) -> Iterator[Given]:
    """All that a worker whose rings stand still has to give; the fds stay its own."""
    yield _port(parts)
    session, connected = parts.front_end.session, parts.front_end.connected
    if session is not None and connected is not None:
        fd, since = connected
        yield _front_end(parts, session, since, now), (fd,)
        for message in replay.requests(parts.device):
            yield GivenRequest(message.request, message.payload), message.fds
        yield from ((ring, ()) for ring in _rings(parts.device, session))
    for pair in parts.device.pairs:
        if pair.used:
            yield from ((message, ()) for message in _pair(pair))
    yield GivenAll(), ()


def _port(parts: Parts) -> Given:
    tap, device, complaints = parts.taps.state, parts.device, parts.complaints
    last = complaints.last
    listener = () if parts.listener is None else (parts.listener.fileno(),)
    message = GivenPort(
        server=parts.listener is not None,
        attached=tap.attached,
        carrier=tap.carrier,
        header_size=tap.header_size,
        takes_uso=tap.takes_uso,
        connections=parts.front_end.connections,
        rarps=parts.overview.rarps,
        **device.iotlb_counts,
        errors=dict(complaints.counts),
        error="" if last is None else str(last.name),
        error_detail="" if last is None else last.detail,
        hold=parts.holding.number,
        held=dict(parts.holding.buffer.counts),
    )
    return message, (parts.control.fileno(), parts.journal, *listener, *parts.taps.fds)


def _front_end(parts: Parts, session: Session, since: float, now: float) -> GivenFrontEnd:
    offer, memory = session.offer, parts.device.resources.memory
    nic = offer.nic or Nic()
    saved = savedstate.Saved(parts.addresses.nic, parts.addresses.known(now))
    return GivenFrontEnd(
        since=since,
        offer_features=offer.features,
        offer_protocol_features=offer.protocol_features,
        offer_mtu=offer.mtu,
        offer_nic=offer.nic is not None,
        offer_mac=nic.mac or b"",
        offer_link_up=nic.link_up,
        offer_any_memory=offer.any_memory,
        status=session.status,
        needs_reset=session.needs_reset,
        features_refused=session.features_refused,
        refused=session.refused,
        counted_pairs=session.counted_pairs,
        enables_unasked=session.enables_unasked,
        link_up=session.link_up,
        mac=session.mac,
        port_mtu=session.port_mtu,
        guest_mtu=session.guest_mtu,
        gone=() if memory is None else tuple(RegionPlace(*place) for place in memory.gone),
        guest=savedstate.encode(saved, int(1000 * now)),
        rarp_mac=parts.state.rarp_mac or b"",
        has_run=parts.device.rings.has_run,
    )


def _rings(device: Device, session: Session) -> Iterator[GivenRing]:
    for vring in session.vrings:
        pair = vring.index // 2
        if pair < len(device.pairs):
            ring = device.pairs[pair].rings[vring.index % 2]
            stands = ring.position, ring.began
        else:  # the tap's queue for it has not come
            stands = None, None
        yield GivenRing(vring.index, *stands, vring.base, vring.base_told)


def _pair(pair: QueuePair) -> Iterator[FromPredecessor]:
    counts = pair.counts
    counters, faults = dict(counts.counters), dict(counts.faults)
    yield GivenPair(pair.index, pair.used, counters, faults, counts.replaced, *pair.pending)
    batch: list[bytes] = []
    for frame in pair.backlog:
        if batch and (
            len(batch) == HELD_BATCH_FRAMES or sum(map(len, batch)) + len(frame) > HELD_BATCH_BYTES
        ):
            yield GivenBacklog(pair.index, tuple(batch))
            batch = []
        batch.append(frame)
    if batch:
        yield GivenBacklog(pair.index, tuple(batch))
