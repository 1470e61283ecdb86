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
from ovs_vhost_plugin.vhost.spec import Feature, ProtocolFeature
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.device.vringconfig import PairConfig, VringConfig

PATIENCE = 60.0
MODERN = Feature.VERSION_1.mask | Feature.MRG_RXBUF.mask
EVENT_IDX = Feature.RING_EVENT_IDX.mask


class SocketStack:
    """The network stack's end of a socket, in the place of a tap."""

    def __init__(self) -> None:
        self.wire, self._driver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.wire.settimeout(PATIENCE)
        self._driver.setblocking(False)
        self.fd = self._driver.fileno()
        self.features = 0

    def set_offloads(self, features: int) -> None:
        self.features = features

    def send(self, frame: bytes) -> None:
        self.wire.send(bytes(12) + frame)

    def close(self) -> None:
        self.wire.close()
        self._driver.close()


class DirectPort:
    """What a front-end is to the guest, on a queue pair; `wire` is the bridge's end."""

    def __init__(self) -> None:
        self.wire, self._tap = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.wire.settimeout(PATIENCE)
        self._tap.setblocking(False)
        self.pair = QueuePair(0, self._tap.fileno())
        self.offered = (1 << 64) - 1
        self._vrings: dict[int, tuple[VringSetup, int]] = {}
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
        self._vrings[vring.index] = vring, base
        if len(self._vrings) == 2:
            self._run()

    def kick(self, vring: VringSetup) -> None:
        vring.kick.signal()

    def stop_vring(self, index: int) -> int:
        self.pair.stop()
        self._vrings.pop(index)
        position = self.pair.rings[index].position
        assert position is not None
        return position

    def start_logging(self, log: DirtyBitmap, _vrings: Iterable[VringSetup]) -> None:
        self._log = np.frombuffer(mmap.mmap(log.fd, log.size), np.uint8)
        bases = [self.stop_vring(index) for index in (0, 1)]
        for vring, base in zip(self._known, bases, strict=True):
            self.start_vring(vring, base)
            vring.kick.signal()

    def close(self) -> None:
        self.pair.close()
        self.wire.close()
        self._tap.close()

    def _run(self) -> None:
        self._known = [self._vrings[index][0] for index in (0, 1)]
        self.pair.prepare(self._config(self._vrings))
        self.pair.start()

    def _config(self, vrings: dict[int, tuple[VringSetup, int]]) -> PairConfig:
        regions = np.zeros(1, layout.REGION_DTYPE)
        host = np.frombuffer(self._memory, np.uint8).ctypes.data + self._region.file_offset
        regions[0] = (self._region.guest_address, self._region.size, host)
        rx, tx = (vrings.get(index) and self._vring(*vrings[index]) for index in (0, 1))
        return PairConfig(
            rx=rx or None,
            tx=tx or None,
            regions=regions,
            log=self._log,
            header_size=12,
            features=self._features,
            finish_offloads=False,
        )

    def _vring(self, vring: VringSetup, base: int) -> VringConfig:
        queue = vring.queue

        def part(address: int, length: int) -> np.ndarray:
            at = address - self._region.guest_address + self._region.file_offset
            return np.frombuffer(self._memory, np.uint8, length, at)

        return VringConfig(
            size=queue.size,
            desc=part(queue.desc_address, 16 * queue.size),
            avail=part(queue.avail_address, 6 + 2 * queue.size),
            used=part(queue.used_address, 6 + 8 * queue.size),
            next_avail=base,
            kick_fd=vring.kick.fileno(),
            call_fd=vring.call.fileno(),
            log_used=self._log is not None,
            log_guest=queue.used_address,
        )


class DirectLab:
    """Compiled guests and their ports, taken down at the end."""

    def __init__(self) -> None:
        self._made: list[SocketStack | DirectPort | CompiledGuest] = []
        self._stacks: dict[int, SocketStack] = {}

    def port(self) -> DirectPort:
        port = DirectPort()
        self._made.append(port)
        return port

    def guest(self, size: int = 64, features: int = MODERN | EVENT_IDX, first: int = 0):
        """A guest that does not run yet, and its stack."""
        stack = SocketStack()
        config = Config(size=size, features=features, first_index=first)
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
