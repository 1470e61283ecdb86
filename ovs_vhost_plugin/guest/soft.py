# SPDX-License-Identifier: Apache-2.0
"""A whole guest in one object: memory, virtio-net driver and front-end.

The guest has no thread and no clock. It acts only when it is called, and waits only on its call
eventfds and with a time limit, so a test sees the same each time.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from ovs_vhost_plugin.guest.driver.driver import (
    LARGEST_FRAME,
    PLAIN,
    NetHeader,
    Received,
    ReceiveQueue,
    TransmitQueue,
)
from ovs_vhost_plugin.guest.driver.iommu import Iommu, TranslatedMemory
from ovs_vhost_plugin.guest.driver.memory import PAGE_SIZE, GuestMemory
from ovs_vhost_plugin.guest.driver.packed import PackedQueue, Virtqueue
from ovs_vhost_plugin.guest.driver.responder import Responder
from ovs_vhost_plugin.guest.driver.split import INDIRECT_ENTRIES, RingFullError, SplitQueue
from ovs_vhost_plugin.guest.frontend.connection import FrontEndConnection, listen
from ovs_vhost_plugin.guest.frontend.device import start_device
from ovs_vhost_plugin.guest.frontend.eventfd import wait_for
from ovs_vhost_plugin.guest.frontend.frontend import (
    PROTOCOL_FEATURES,
    FrontEnd,
    VringSetup,
)
from ovs_vhost_plugin.vhost.spec import Feature, ProtocolFeature

FEATURES = (
    Feature.VERSION_1.mask
    | Feature.MRG_RXBUF.mask
    | Feature.RING_INDIRECT_DESC.mask
    | Feature.RING_EVENT_IDX.mask
)
"""A modern driver without offloads: the frames it receives are complete."""
_RECEIVE_LARGE = (
    Feature.GUEST_TSO4.mask
    | Feature.GUEST_TSO6.mask
    | Feature.GUEST_UFO.mask
    | Feature.GUEST_USO4.mask
    | Feature.GUEST_USO6.mask
)
_MERGEABLE_BUFFER = 2048
_ETHERNET_HEADER = 14 + 4  # with a VLAN tag


@dataclass(frozen=True, slots=True)
class Config:
    """The guest's configuration; the defaults suit most tests."""

    queue_pairs: int = 1
    size: int = 256
    """Descriptors of each vring."""
    features: int = FEATURES
    """Features the driver acknowledges; NotOfferedError if the back-end lacks one."""
    mac: bytes = bytes.fromhex("525400000001")
    address: IPv4Address | None = None
    """The guest answers ARP and ping for this address while it receives; None: it stays silent."""
    mtu: int | None = None
    indirect: bool = False
    """Transmit by indirect descriptors (with RING_INDIRECT_DESC)."""
    receive_pieces: Sequence[int] | None = None
    """Lengths of a receive buffer's descriptors; by default those of a usual driver."""
    first_index: int = 0
    """The rings' first index; packed rings take it modulo twice their size."""
    inband: bool = False
    """Kick and be called by messages, where the back-end offers in-band notifications."""
    timeout: float = 30.0
    """Seconds after which a back-end counts as hung."""
    memory: GuestMemory | None = None
    """Memory of a special shape; by default one region, large enough."""

    def has(self, feature: Feature) -> bool:
        """Whether the guest acknowledges a feature."""
        return bool(self.features & feature.mask)

    @property
    def acknowledged(self) -> int:
        """Features that the driver acknowledges, with those that several queue pairs need."""
        many = Feature.MQ.mask | Feature.CTRL_VQ.mask
        return self.features | (many if self.queue_pairs > 1 else 0)

    @property
    def header_size(self) -> int:
        """Bytes before each frame (virtio 1.2, 5.1.6)."""
        modern = self.has(Feature.VERSION_1) or self.has(Feature.MRG_RXBUF)
        return 12 if modern else 10

    def buffer_pieces(self) -> Sequence[int]:
        """Descriptor lengths of a receive buffer (5.1.6.3.1): small to merge, or for any frame."""
        if self.receive_pieces is not None:
            return self.receive_pieces
        if self.has(Feature.MRG_RXBUF):
            return [_MERGEABLE_BUFFER]
        if self.features & _RECEIVE_LARGE:
            return [self.header_size] + [PAGE_SIZE] * -(-LARGEST_FRAME // PAGE_SIZE)
        return [self.header_size, (self.mtu or 1500) + _ETHERNET_HEADER]


USUAL = Config()


@dataclass(frozen=True, slots=True)
class DriverPair:
    """A receive queue and a transmit queue, vrings 2i and 2i+1."""

    rx: ReceiveQueue
    tx: TransmitQueue
    rx_vring: VringSetup
    tx_vring: VringSetup


class SoftGuest:
    """A virtual machine's network side, without the machine."""

    def __init__(self, path: Path, config: Config = USUAL, *, server: bool = False) -> None:
        """`path`: the socket on which the back-end listens, or (`server`) this side."""
        self.path = path
        self.config = config
        self.memory = config.memory or GuestMemory.of_size(_memory_needed(config))
        self.pairs = [self._make_pair(i) for i in range(config.queue_pairs)]
        self.frontend: FrontEnd | None = None
        self.iommu = Iommu(self.memory) if isinstance(self.memory, TranslatedMemory) else None
        address = config.address
        self._responder = None if address is None else Responder(config.mac, address)
        self._listener: socket.socket | None = listen(path) if server else None

    @property
    def vrings(self) -> list[VringSetup]:
        """All vrings in the order of their indices."""
        return [vring for pair in self.pairs for vring in (pair.rx_vring, pair.tx_vring)]

    def start(self) -> None:
        """Connect, and start the rings at their positions, also after the back-end was lost.

        A new back-end resumes a split ring at the used index: it serves again the chains that the
        earlier one took and did not use (vhost-user "Reconnection", split rings).
        """
        if self.frontend is not None:
            self.frontend.close()
        self.frontend = self.connect()
        self.run_on(self.frontend, [vring.queue.base for vring in self.vrings])

    def connect(self) -> FrontEnd:
        """A new session with a back-end at this guest's path, not yet running."""
        timeout = self.config.timeout
        if self._listener is not None:
            connection = FrontEndConnection.accept(self._listener, timeout)
        else:
            connection = FrontEndConnection.connect(self.path, timeout)
        return self.initialise(connection)

    def initialise(self, connection: FrontEndConnection) -> FrontEnd:
        """Begin the session on a new connection."""
        frontend = FrontEnd(connection)
        inband = ProtocolFeature.INBAND_NOTIFICATIONS.mask if self.config.inband else 0
        frontend.initialise(PROTOCOL_FEATURES | inband)
        return frontend

    def run_on(self, frontend: FrontEnd, bases: Sequence[int]) -> None:
        """Hand the device over to `frontend`: features, memory, each vring at its base."""
        self.frontend = frontend
        config = self.config
        start_device(frontend, config.acknowledged, self.memory, self.vrings, bases, config.mtu)
        for pair in self.pairs:
            pair.rx.fill()
            pair.tx.queue.publish()
        for vring in self.vrings:
            frontend.kick(vring)  # a device may wait for it, and buffers may be there already

    def move_to(self, memory: GuestMemory) -> None:
        """Move to other memory with the same content; the rings must be stopped."""
        self.memory.close()
        self.memory = memory
        for vring in self.vrings:
            vring.queue.move_to(memory)

    def stop_rings(self) -> list[int]:
        """Stop all vrings; return the base at which each resumes."""
        return [self._running().stop_vring(vring.index) for vring in self.vrings]

    def stop(self) -> None:
        """Stop the rings if there is a back-end, then `close`."""
        try:
            if self.frontend is not None:
                self.stop_rings()
        finally:
            self.close()

    def close(self) -> None:
        """Drop everything at once, like a machine that is switched off."""
        if self.frontend is not None:
            self.frontend.close()
            self.frontend = None
        for vring in self.vrings:
            vring.close()
        if self._listener is not None:
            self._listener.close()
        self.memory.close()

    def send(
        self,
        frame: bytes,
        queue: int = 0,
        header: NetHeader = PLAIN,
        pieces: Sequence[int] | None = None,
    ) -> None:
        """Send a frame; wait for room. Raises RingFullError if the device makes none."""
        tx, vring = self.pairs[queue].tx, self.pairs[queue].tx_vring
        tx.reap()
        try:
            tx.add(frame, header, pieces)
        except RingFullError:
            self._await_room(vring)
            tx.reap()
            tx.add(frame, header, pieces)
        self.publish(vring)

    def publish(self, vring: VringSetup) -> None:
        """Make the added chains available to the device, and kick it if it wants a kick."""
        if vring.queue.publish():
            self._running().kick(vring)

    def announce(self) -> None:
        """Announce the guest, as a driver does that acknowledged GUEST_ANNOUNCE."""
        if self._responder is not None:
            self.send(self._responder.announcement())

    def drain(self) -> None:
        """Wait until the device has used every frame sent; RingFullError if it is stuck."""
        for pair in self.pairs:
            pair.tx.reap()
            while pair.tx.queue.outstanding:
                self._await_room(pair.tx_vring)
                pair.tx.reap()

    def receive(self, timeout: float) -> list[bytes]:
        """The frames that have arrived; if there are none, wait up to `timeout` seconds."""
        return [received.frame for _, received in self.receive_all(timeout)]

    def receive_all(self, timeout: float) -> list[tuple[int, Received]]:
        """Like `receive`, with each frame's queue pair and header.

        Raises BackEndClosedError if the back-end is lost while waiting.
        """
        if frames := self._poll():
            return frames
        self._await_used([pair.rx_vring for pair in self.pairs], timeout)
        return self._poll()

    def _poll(self) -> list[tuple[int, Received]]:
        frames = []
        for index, pair in enumerate(self.pairs):
            frames += [(index, received) for received in pair.rx.receive()]
            if pair.rx.fill():
                self._running().kick(pair.rx_vring)
        for queue, received in frames:
            answer = self._responder.answer(received.frame) if self._responder else None
            if answer is not None:
                self.send(answer, queue)
        return frames

    def _await_used(self, vrings: Sequence[VringSetup], timeout: float) -> bool:
        """Wait until the device has used a chain of one of `vrings`, or has hung up."""
        connection, inband = self._running().connection, self._running().inband

        def used() -> bool:
            connection.check()
            if inband is not None:
                inband.take()
            self.serve()
            for vring in vrings:
                vring.call.take()
            late = [vring.queue.want_calls(True) for vring in vrings]
            return any(late)

        fds = [connection.fileno(), *(vring.call.fileno() for vring in vrings)]
        fds += [] if inband is None else [inband.fileno()]
        channel = self._running().channel
        if self.iommu is not None and inband is None and channel is not None:
            fds.append(channel.fileno())
        try:
            return wait_for(used, fds, timeout)
        finally:
            for vring in vrings:
                vring.queue.want_calls(False)

    def serve(self, seconds: float = 0.0) -> None:
        """Answer the back-end's IOTLB misses, where the guest has an IOMMU."""
        if self.iommu is not None:
            self.iommu.serve(self._running(), seconds)

    def _await_room(self, vring: VringSetup) -> None:
        if not self._await_used([vring], self.config.timeout):
            raise RingFullError(f"vring {vring.index}: nothing used in {self.config.timeout} s")

    def _running(self) -> FrontEnd:
        if self.frontend is None:
            raise RuntimeError("start() comes first")
        return self.frontend

    def _make_pair(self, index: int) -> DriverPair:
        config = self.config
        queues = [self._make_queue() for _ in range(2)]
        rx = ReceiveQueue(
            queues[0], config.header_size, config.has(Feature.MRG_RXBUF), config.buffer_pieces()
        )
        tx = TransmitQueue(queues[1], config.header_size, indirect=config.indirect)
        return DriverPair(
            rx, tx, VringSetup(2 * index, queues[0]), VringSetup(2 * index + 1, queues[1])
        )

    def _make_queue(self) -> Virtqueue:
        config = self.config
        events, first = config.has(Feature.RING_EVENT_IDX), config.first_index
        if config.has(Feature.RING_PACKED):
            in_order = config.has(Feature.IN_ORDER)
            return PackedQueue(self.memory, config.size, events, first, in_order)
        return SplitQueue(self.memory, config.size, events, first)


def _memory_needed(config: Config) -> int:
    pieces = config.buffer_pieces()
    receive = config.size // len(pieces) * sum(pieces)
    transmit = config.size * (_MERGEABLE_BUFFER + 16 * INDIRECT_ENTRIES)
    rings = 2 * config.size * 32 + 8 * PAGE_SIZE
    return config.queue_pairs * (receive + transmit + rings)
