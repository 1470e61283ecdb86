# SPDX-License-Identifier: Apache-2.0
"""The parts of a worker without tap, threads or daemon, to hand over and to take over."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.worker.device_parts import FakePair, FakeTaps

from ovs_vhost_plugin.ipc.spec import PortSettings, WorkerSpec
from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.features import Nic, Offer, offer
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.spec import Feature, FrontendRequest, ProtocolFeature
from ovs_vhost_plugin.worker.complaints import Complaints
from ovs_vhost_plugin.worker.device.device import Device, Observer
from ovs_vhost_plugin.worker.device.userfaultdevice import UserfaultDevice
from ovs_vhost_plugin.worker.frontend import FrontEndLink
from ovs_vhost_plugin.worker.handover.parts import Parts
from ovs_vhost_plugin.worker.learned.addresses import Addresses
from ovs_vhost_plugin.worker.learned.devicestate import DeviceState
from ovs_vhost_plugin.worker.learned.movedon import Watch
from ovs_vhost_plugin.worker.outbox import Outbox
from ovs_vhost_plugin.worker.overview import Overview
from ovs_vhost_plugin.worker.tap.gate import TapGate
from ovs_vhost_plugin.worker.tap.holding import Holding
from ovs_vhost_plugin.worker.tap.queues import TapState

MEMORY, USER, SIZE = 1 << 20, 0x7F0000000000, 8
NOW = 500.0
PAIRS = 2
SPEC = WorkerSpec("vhu0", "server", "/vm.sock", PAIRS, PortSettings(hold=True))


class HandoverTaps(FakeTaps):
    """A tap of which only the state is there, and an fd for each queue."""

    def __init__(self, fds: tuple[int, ...], state: TapState) -> None:
        super().__init__()
        self.fds = fds
        self.carrier, self.attached = state.carrier, list(state.attached)
        self.header_size = state.header_size

    @property
    def state(self) -> TapState:
        return TapState(tuple(self.attached), self.carrier, self.header_size, True)


class News(Observer):
    """What a device tells, in order; what is not kept here is heard by nobody."""

    def __init__(self) -> None:
        self.news: list[Any] = []

    def rarp(self, mac: bytes) -> None:
        self.news.append(mac)

    def started(self, base: int, *, further: bool) -> None:
        self.news.append((base, further))

    def error(self, error: Any) -> None:
        self.news.append(error)


class HandoverPort:
    """A worker's parts, wired as `worker/worker.py` does it."""

    def __init__(
        self,
        directory: Path,
        *,
        state: TapState | None = None,
        fds: tuple[int, int, int] | None = None,
        clock: Callable[[], float] = lambda: NOW,
    ) -> None:
        self.selector = selectors.DefaultSelector()
        self.observer = News()
        self.pairs = [FakePair(index) for index in range(PAIRS)]
        outbox, complaints = Outbox(self.selector, clock), Complaints()
        self.tap_fds = tuple(os.eventfd(0) for _ in range(PAIRS))
        state = state or TapState((True, False), False, 10, True)
        self.taps: Any = HandoverTaps(self.tap_fds, state)
        holding = Holding(self.taps, self.selector, outbox, clock, SPEC.settings)
        self.learned_fd = os.eventfd(0, os.EFD_NONBLOCK)
        addresses = Addresses(self.pairs, self.learned_fd, Watch(), outbox)
        device_state = DeviceState(addresses, self.selector, clock)
        userfaultfds = UserfaultDevice(outbox, clock, SPEC.settings)
        gate = TapGate(self.pairs, self.taps, holding)
        device = Device(gate, device_state, self.selector, self.observer, SPEC.settings)
        if fds is None:
            self.control = _listening(directory / "control", socket.SOCK_SEQPACKET)
            listener = _listening(directory / "vm", socket.SOCK_STREAM)
            journal = os.memfd_create("journal")
        else:
            self.control, listener = (socket.socket(fileno=fd) for fd in fds[:2])
            journal = fds[2]
        front_end = FrontEndLink(
            SPEC.path,
            listener,
            device,
            self.selector,
            outbox=outbox,
            complaints=complaints,
            make_offer=the_offer,
        )
        overview = Overview(front_end, device, addresses, holding, userfaultfds, complaints)
        self.parts = Parts(
            self.control,
            listener,
            journal,
            self.taps,
            gate,
            front_end,
            device,
            addresses,
            device_state,
            holding,
            complaints,
            overview,
            outbox,
        )
        self.peers: list[socket.socket] = []

    def connect(self, *features: Feature, protocol: int = 0) -> None:
        """A front-end connects, and sets up features and memory."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.peers.append(theirs)
        self.parts.front_end.adopt(ours, NOW - 60)
        mask = sum(bit.mask for bit in (*features, Feature.PROTOCOL_FEATURES))
        self.ask(FrontendRequest.SET_PROTOCOL_FEATURES, spec.U64.pack(protocol))
        self.ask(FrontendRequest.SET_FEATURES, spec.U64.pack(mask))

    def memory(self) -> None:
        fd = os.memfd_create("guest")
        os.ftruncate(fd, MEMORY)
        payload = spec.MEMORY_HEADER.pack(1, 0) + spec.MEMORY_REGION.pack(0, MEMORY, USER, 0)
        self.ask(FrontendRequest.SET_MEM_TABLE, payload, fd)

    def log(self) -> None:
        fd = os.memfd_create("log")
        os.ftruncate(fd, 4096)
        self.ask(FrontendRequest.SET_LOG_BASE, spec.LOG.pack(4096, 0), fd)

    def vring(self, index: int, base: int = 0, *, enabled: bool = True) -> None:
        at = USER + index * 0x1000
        self.ask(FrontendRequest.SET_VRING_NUM, spec.VRING_STATE.pack(index, SIZE))
        self.ask(FrontendRequest.SET_VRING_BASE, spec.VRING_STATE.pack(index, base))
        addresses = spec.VRING_ADDR.pack(index, 0, at, at + 0x800, at + 0x400, 0)
        self.ask(FrontendRequest.SET_VRING_ADDR, addresses)
        self.ask(FrontendRequest.SET_VRING_CALL, spec.U64.pack(index), os.eventfd(0))
        self.ask(FrontendRequest.SET_VRING_KICK, spec.U64.pack(index), os.eventfd(0))
        self.ask(FrontendRequest.SET_VRING_ENABLE, spec.VRING_STATE.pack(index, int(enabled)))

    def ask(self, request: FrontendRequest, payload: bytes = b"", *fds: int) -> None:
        self.parts.device.answer(Message(request, payload, spec.VERSION, fds))
        self.parts.device.start_pending()

    def close(self) -> None:
        self.parts.front_end.close(NOW)
        for pair in self.pairs:
            pair.close()
        for fd in (*self.tap_fds, self.learned_fd, self.parts.journal):
            os.close(fd)
        for sock in (self.control, *([self.parts.listener] if self.parts.listener else ())):
            sock.close()
        for peer in self.peers:
            peer.close()
        self.parts.outbox.close()
        self.selector.close()


def the_offer() -> Offer:
    return offer(PAIRS, 9000, nic=Nic(bytes.fromhex("525400000001")))


def running(port: HandoverPort) -> HandoverPort:
    """`port` with a guest that runs: two rings, a log, a channel, counts, a removed region."""
    features = Feature.VERSION_1, Feature.MRG_RXBUF, Feature.LOG_ALL
    bits = ProtocolFeature.LOG_SHMFD, ProtocolFeature.MTU, ProtocolFeature.REPLY_ACK
    more = ProtocolFeature.BACKEND_REQ, ProtocolFeature.CONFIGURE_MEM_SLOTS
    port.connect(*features, protocol=sum(bit.mask for bit in (*bits, *more)))
    port.memory()
    port.log()
    port.ask(FrontendRequest.NET_SET_MTU, spec.U64.pack(1400))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    port.peers.append(theirs)
    port.ask(FrontendRequest.SET_BACKEND_REQ_FD, b"", ours.detach())
    for index in (0, 1):
        port.vring(index)
    port.pairs[0].used = True
    port.parts.complaints.counts.update({"header-version": 3})
    port.parts.overview.rarps = 5
    port.parts.holding.count_on_from(4, {"held": 9})
    return port


def _listening(path: Path, kind: socket.SocketKind) -> socket.socket:
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, kind)
    made.bind(str(path))
    made.listen()
    return made
