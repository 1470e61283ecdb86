# SPDX-License-Identifier: Apache-2.0
"""The compiled guest on our compiled device without a daemon or a session: sockets for taps.

Like a tap, a datagram socket reads and writes one frame at a time, cuts none, and says EAGAIN.
"""

from __future__ import annotations

import itertools
import mmap
import socket
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ovs_vhost_plugin.guest.compiled.guest import CompiledGuest
from ovs_vhost_plugin.guest.compiled.memory import MarkedMemory
from ovs_vhost_plugin.guest.frontend.dirtylog import DirtyBitmap
from ovs_vhost_plugin.guest.frontend.frontend import VringSetup
from ovs_vhost_plugin.guest.soft import Config
from ovs_vhost_plugin.jit import layout
from ovs_vhost_plugin.vhost import packed_base
from ovs_vhost_plugin.vhost.spec import Feature, ProtocolFeature
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.device.vringconfig import PairConfig, VringConfig

PATIENCE = 60.0
MODERN = Feature.VERSION_1.mask | Feature.MRG_RXBUF.mask
EVENT_IDX = Feature.RING_EVENT_IDX.mask
PACKED = Feature.RING_PACKED.mask


class SocketStack:
    """The network stack's ends of sockets, one for each queue, in the place of a tap."""

    def __init__(self, queues: int = 1) -> None:
        self.wires: list[socket.socket] = []
        self._driver: list[socket.socket] = []
        for _ in range(queues):
            wire, driver = tap_sockets()
            self.wires.append(wire)
            self._driver.append(driver)
        self.wire = self.wires[0]
        self.fds = [driver.fileno() for driver in self._driver]
        self.features = 0

    def set_offloads(self, features: int) -> None:
        self.features = features

    def send(self, frame: bytes) -> None:
        self.wire.send(bytes(12) + frame)

    def close(self) -> None:
        for end in (*self.wires, *self._driver):
            end.close()


class PortPair:
    """A queue pair of a port; `wire` is the bridge's end of its tap."""

    def __init__(self, index: int) -> None:
        self.wire, self._tap = tap_sockets()
        self.pair = QueuePair(index, self._tap.fileno())
        self.given: dict[int, tuple[VringSetup, int]] = {}
        """Vrings that run, and the positions at which they began, by their indices here."""

    def close(self) -> None:
        self.pair.close()
        self.wire.close()
        self._tap.close()


class DirectPort:
    """What a front-end is to the guest, on queue pairs; `wire` and `pair` are the first one's."""

    def __init__(self, queue_pairs: int = 1) -> None:
        self.pairs = [PortPair(index) for index in range(queue_pairs)]
        self.wires = [mine.wire for mine in self.pairs]
        self.wire, self.pair = self.wires[0], self.pairs[0].pair
        self.offered = (1 << 64) - 1
        self.queue_pairs_offered = queue_pairs
        self._log: np.ndarray | None = None

    def has(self, _feature: ProtocolFeature) -> bool:
        return False

    def set_features(self, features: int) -> None:
        self._features = features

    def give_memory(self, memory: MarkedMemory) -> None:
        """Map it anew, as another process does."""
        region = memory.regions[0]
        self._memory = mmap.mmap(memory.fds[0], region.file_offset + region.size)
        self._region = region

    def enable_vring(self, _index: int, _enabled: bool) -> None:
        pass

    def start_vring(self, vring: VringSetup, base: int) -> None:
        mine = self.pairs[vring.index // 2]
        position = packed_base.decode(base, vring.queue.size) if self._packed else base
        mine.given[vring.index % 2] = vring, position
        if len(mine.given) == 2:
            mine.pair.prepare(self._config(mine.given))
            mine.pair.start()

    def kick(self, vring: VringSetup) -> None:
        vring.kick.signal()

    def stop_vring(self, index: int) -> int:
        mine = self.pairs[index // 2]
        mine.pair.stop()
        vring, _ = mine.given.pop(index % 2)
        position = mine.pair.rings[index % 2].position
        assert position is not None
        return packed_base.encode(position, vring.queue.size) if self._packed else position

    def start_logging(self, log: DirtyBitmap, _vrings: Iterable[VringSetup]) -> None:
        self._log = np.frombuffer(mmap.mmap(log.fd, log.size), np.uint8)
        known = [mine.given[at][0] for mine in self.pairs for at in (0, 1)]
        bases = [self.stop_vring(vring.index) for vring in known]
        for vring, base in zip(known, bases, strict=True):
            self.start_vring(vring, base)
            vring.kick.signal()

    def close(self) -> None:
        for mine in self.pairs:
            mine.close()

    @property
    def _packed(self) -> bool:
        return bool(self._features & Feature.RING_PACKED.mask)

    def _config(self, vrings: dict[int, tuple[VringSetup, int]]) -> PairConfig:
        regions = np.zeros(1, layout.REGION_DTYPE)
        host = np.frombuffer(self._memory, np.uint8).ctypes.data + self._region.file_offset
        regions[0] = (self._region.guest_address, self._region.size, host)
        rx, tx = (self._vring(*vrings[index]) for index in (0, 1))
        return PairConfig(
            rx=rx,
            tx=tx,
            regions=regions,
            log=self._log,
            header_size=12,
            features=self._features,
            finish_offloads=False,
        )

    def _vring(self, vring: VringSetup, position: int) -> VringConfig:
        queue = vring.queue

        def part(address: int, length: int) -> np.ndarray:
            at = address - self._region.guest_address + self._region.file_offset
            return np.frombuffer(self._memory, np.uint8, length, at)

        return VringConfig(
            size=queue.size,
            desc=part(queue.desc_address, 16 * queue.size),
            avail=part(queue.avail_address, 4 if self._packed else 6 + 2 * queue.size),
            used=part(queue.used_address, 4 if self._packed else 6 + 8 * queue.size),
            next_avail=position,
            kick_fd=vring.kick.fileno(),
            call_fd=vring.call.fileno(),
            log_used=self._log is not None,
            log_guest=queue.used_address,
            log_desc=queue.desc_address,
        )


def tap_sockets() -> tuple[socket.socket, socket.socket]:
    """The network's end and a loop's end of what stands for a tap."""
    wire, tap = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    wire.settimeout(PATIENCE)
    tap.setblocking(False)
    return wire, tap


class DirectLab:
    """Compiled guests and their ports, taken down at the end."""

    def __init__(self) -> None:
        self._made: list[SocketStack | DirectPort | CompiledGuest] = []

    def port(self, queue_pairs: int = 1) -> DirectPort:
        port = DirectPort(queue_pairs)
        self._made.append(port)
        return port

    def guest(
        self,
        size: int = 64,
        features: int = MODERN | EVENT_IDX,
        first: int = 0,
        queue_pairs: int = 1,
    ) -> tuple[CompiledGuest, SocketStack]:
        """A guest that does not run yet, and its stack."""
        stack = SocketStack(queue_pairs)
        config = Config(queue_pairs, size, features, first_index=first)
        guest = CompiledGuest(Path("/nowhere"), config, stack)
        self._made += [stack, guest]
        return guest, stack

    def close(self) -> None:
        for made in reversed(self._made):
            if isinstance(made, CompiledGuest):
                made.frontend = None
            made.close()


_numbers = itertools.count()


def numbered(length: int) -> bytes:
    """A header that asks for nothing, and a frame that nobody else has."""
    number = next(_numbers)
    return bytes(12) + b"".join((number + i).to_bytes(4, "big") for i in range(length // 4))
