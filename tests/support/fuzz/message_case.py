# SPDX-License-Identifier: Apache-2.0
"""One case of the message fuzzer: a session, a device and queue pairs under a hostile front-end.

All of it is real but the tap, which is a socket: messages with fds go in, memory is mapped, threads
run the compiled loop over it. A case is a list of steps, see `test_fuzz_messages.py`. After each
step everything must fit together, and after all of them nothing must be left, and a front-end that
behaves must find the port as if nothing had been.
"""

from __future__ import annotations

import gc
import os
import selectors
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from support.fuzz.message_steps import KINDS, OFFER, PAIRS, RING, RX_BUFFER, TX_BUFFER, good_set_up

from ovs_vhost_plugin.ipc.spec import PortSettings
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.fds.kind import is_eventfd
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.session import TABLE, Session
from ovs_vhost_plugin.vhost.spec import Feature, FrontendRequest, ProtocolFeature
from ovs_vhost_plugin.worker.device.device import Device, Observer
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.device.vringconfig import PairConfig
from ovs_vhost_plugin.worker.learned.addresses import Addresses
from ovs_vhost_plugin.worker.learned.devicestate import DeviceState
from ovs_vhost_plugin.worker.learned.movedon import Watch
from ovs_vhost_plugin.worker.outbox import Outbox
from ovs_vhost_plugin.worker.tap.gate import TapGate
from ovs_vhost_plugin.worker.tap.holding import Holding

FRAME = bytes(12) + bytes(range(100))
_NAMES = set(PeerErrorName) | {fault.kebab for fault in Fault}
_PATIENCE = 60.0
_ADVISE = FrontendRequest.POSTCOPY_ADVISE


class Pair(QueuePair):
    """A queue pair that says what it runs."""

    config: PairConfig | None = None

    def prepare(self, config: PairConfig) -> None:
        super().prepare(config)
        self.config = config

    def stop(self, *, quietly: bool = False) -> None:
        super().stop(quietly=quietly)
        self.config = None


class Taps:
    """Sockets for tap queues; `wires` are their other ends."""

    takes_uso = True

    def __init__(self) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(PAIRS)]
        self.ends = [tap for tap, _ in pairs]
        self.wires = [wire for _, wire in pairs]
        for sock in self.ends + self.wires:
            sock.setblocking(False)
        self.fds = tuple(tap.fileno() for tap in self.ends)
        self.header_size = 0
        self.carrier = False

    def set_format(self, header_size: int, _features: int) -> None:
        self.header_size = header_size

    def set_carrier(self, up: bool) -> None:
        self.carrier = up

    def set_attached(self, wanted: list[bool]) -> None:
        assert len(wanted) == PAIRS

    def discard(self) -> None:
        for sock in self.ends:
            drain(sock)

    def close(self) -> None:
        for sock in self.ends + self.wires:
            sock.close()


def drain(sock: socket.socket) -> list[bytes]:
    frames = []
    try:
        while True:
            frames.append(sock.recv(1 << 17))
    except BlockingIOError:
        return frames


SETTINGS = PortSettings(hold=True)


class Port(Observer):
    """A port as its worker has it, between a front-end and a bridge."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.taps = Taps()
        self.pairs = [Pair(index, fd) for index, fd in enumerate(self.taps.fds)]
        self.outbox = Outbox(self.selector, time.monotonic)
        holding = Holding(
            self.taps,  # type: ignore[arg-type]
            self.selector,
            self.outbox,
            time.monotonic,
            SETTINGS,
        )
        addresses = Addresses(self.pairs, -1, Watch(), self.outbox)
        self.state = DeviceState(addresses, self.selector, time.monotonic)
        self.settings = SETTINGS
        self.device = Device(
            TapGate(self.pairs, self.taps, holding),  # type: ignore[arg-type]
            self.state,
            self.selector,
            self,
            self.settings,
        )
        self.holding = holding
        self.memory = -1  # the last file that came as guest memory
        self.errors: list[str] = []
        self.connect()

    def connect(self) -> None:
        self.session = Session(OFFER)
        self.device.attach(self.session)

    # -- what the device tells -------------------------------------------------------------------

    def rarp(self, mac: bytes) -> None:
        assert len(mac) == 6 and any(mac) and not mac[0] & 1

    def started(self, base: int, *, further: bool) -> None:
        assert 0 <= base <= 0xFFFF

    def error(self, error: PeerError) -> None:
        assert error.name in _NAMES
        self.errors.append(error.name)

    # -- steps -----------------------------------------------------------------------------------

    def do(self, step: tuple[Any, ...]) -> None:
        if step[0] != "send":
            self.device.start_pending()  # messages that follow one another are there together
        getattr(self, f"_do_{step[0]}")(*step[1:])

    def _do_send(self, request: int, need_reply: bool, payload: bytes, kinds: list[str]) -> None:
        fds = tuple(KINDS[kind]() for kind in kinds)
        if request == FrontendRequest.SET_MEM_TABLE and kinds[:1] == ["memory"]:
            self._keep(fds[0])
        flags = spec.VERSION | (spec.NEED_REPLY if need_reply else 0)
        message = Message(request, payload, flags, fds)
        # As it is before: the message may be the one that negotiates it.
        asked = need_reply and self.session.negotiated(ProtocolFeature.REPLY_ACK)
        try:
            reply = self.device.answer(message)
            if not payload or payload[0] % 2 == 0:  # else the next message is there already
                self.device.start_pending()
        except PeerError as error:
            assert error.name in _NAMES
            self._do_hang_up()
            return
        self._check_reply(message, reply, asked)
        if request == FrontendRequest.GET_VRING_BASE:
            index, base = spec.VRING_STATE.unpack(reply.payload if reply else b"")
            assert base < 1 << 32 and self.running(index) is None

    def _keep(self, fd: int) -> None:
        if self.memory >= 0:
            os.close(self.memory)
        self.memory = os.dup(fd)

    def _do_hang_up(self) -> None:
        """The connection has ended, or was ended, and the next front-end is there."""
        self.device.detach()
        assert all(pair.config is None for pair in self.pairs)
        self.connect()

    def _do_poke(self, address: int, data: bytes) -> None:
        if self.memory >= 0:
            os.pwrite(self.memory, data, address)

    def _do_kick(self, index: int) -> None:
        fd = self.session.vrings[index].kick_fd
        if fd >= 0:
            os.eventfd_write(fd, 1)

    def _do_frame(self, queue: int, length: int) -> None:
        try:
            self.taps.wires[queue].send(bytes(length))
        except BlockingIOError:
            drain(self.taps.wires[queue])

    def _do_loop(self) -> None:
        """What the worker's loop does when it wakes up."""
        for pair in self.pairs:
            self.device.collect_faults(pair)
        for key, _ in self.selector.select(0):
            key.data(time.monotonic())

    def _do_port(self, link_up: bool, mtu: int) -> None:
        self._configure(link_up=link_up, mtu=mtu)

    def _configure(self, **changes: Any) -> None:
        self.settings = replace(self.settings, **changes)
        self.device.configure(self.settings)

    def _do_finish(self, finish: bool) -> None:
        self._configure(finish_offloads=finish)

    def _do_close_early(self) -> None:
        self.device.close_early()

    # -- what must be ----------------------------------------------------------------------------

    def _check_reply(self, message: Message, reply: Message | None, asked: bool) -> None:
        row = TABLE.get(message.request)
        always = row is not None and row.answers
        always = always or message.request == FrontendRequest.SET_LOG_BASE
        assert (reply is not None) == (asked or always)
        if reply is not None:
            assert (reply.request, reply.flags) == (message.request, 0x5)
            if message.request == FrontendRequest.GET_INFLIGHT_FD:
                assert len(reply.payload) in (spec.INFLIGHT.size, spec.INFLIGHT_PADDED)
                assert len(reply.fds) == (reply.payload[:8] != bytes(8))
                return
            assert reply.fds == ()
            refused = message.request == FrontendRequest.GET_CONFIG and not reply.payload
            read = message.request == FrontendRequest.GET_CONFIG and len(message.payload)
            # a refusal is an answer without an fd, and there is no userfaultfd here
            length = 0 if message.request == _ADVISE else 8
            assert refused or len(reply.payload) == (read or length)

    def running(self, index: int) -> Any:
        config = self.pairs[index // 2].config
        return None if config is None else (config.tx if index % 2 else config.rx)

    def check(self) -> None:
        for vring in self.session.vrings:
            packed = self.session.features & Feature.RING_PACKED.mask
            assert 0 <= vring.size <= 1 << 15 and 0 <= vring.base < 1 << 32
            config = self.running(vring.index)
            if config is None:
                continue
            assert vring.ready(), f"vring {vring.index} runs, and is not ready"
            assert packed or (vring.size & vring.size - 1 == 0 and vring.base <= 0xFFFF)
            for name in ("size", "kick_fd", "call_fd", "err_fd", "enabled"):
                assert getattr(config, name) == getattr(vring, name), name
            for fd in (config.kick_fd, config.call_fd, config.err_fd):
                assert fd < 0 or is_eventfd(fd)
        assert not self.session.features & ~OFFER.features

    # -- a front-end that behaves ----------------------------------------------------------------

    def check_it_works(self) -> None:
        """After all that was, the next front-end's frames pass both ways."""
        self._do_hang_up()
        self._do_loop()
        for step in good_set_up(0):
            self.do(step)
            self.check()
        self.device.start_pending()
        drain(self.taps.wires[0])
        for index, buffer, flags in ((0, RX_BUFFER, 2), (1, TX_BUFFER, 0)):
            ring = index * RING
            entry = buffer.to_bytes(8, "little") + len(FRAME).to_bytes(4, "little")
            self._do_poke(ring, entry + bytes([flags, 0, 0, 0]))
            self._do_poke(TX_BUFFER, FRAME)
            self._do_poke(ring + 0x400, bytes([0, 0, 1, 0, 0, 0]))
            self._do_kick(index)
        self.device.start_pending()
        self.taps.wires[0].send(FRAME)
        deadline, sent = time.monotonic() + _PATIENCE, b""
        while not sent or not self._used(0) or not self._used(1):
            sent = sent or b"".join(drain(self.taps.wires[0])[:1])
            assert time.monotonic() < deadline, f"no frame passes; errors: {self.errors}"
            time.sleep(0.0005)
        assert sent == FRAME
        assert os.pread(self.memory, 100, RX_BUFFER + 12) == FRAME[12:]

    def _used(self, index: int) -> int:
        return int.from_bytes(os.pread(self.memory, 2, index * RING + 0x802), "little")

    def close(self) -> None:
        self.device.detach()
        for pair in self.pairs:
            pair.close()
        if self.memory >= 0:
            os.close(self.memory)
        self.taps.close()
        self.selector.close()


def open_files() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 (names only)


def run(steps: list[tuple[Any, ...]]) -> None:
    """Run one case; AssertionError if something was that must not be."""
    gc.collect()
    before = open_files()
    port = Port()
    try:
        for step in steps:
            port.do(step)
            port.check()
        port.check_it_works()
    finally:
        port.close()
    del port
    gc.collect()
    wait_until(lambda: open_files() == before, "all fds closed, some by threads")
    assert "memfd:fuzz" not in Path("/proc/self/maps").read_text(), "memory was left mapped"
