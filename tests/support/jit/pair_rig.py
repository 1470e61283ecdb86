# SPDX-License-Identifier: Apache-2.0
"""A queue pair between a reference driver and a datagram socket that stands for the tap.

Like a tap, a datagram socket reads and writes one frame at a time, cuts none, and says EAGAIN.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from support.jit.packed_reference import AVAIL, USED, PackedDriver
from support.jit.ring_reference import Driver, Eventfds, GuestMemory

from ovs_vhost_plugin.jit import fresh
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.vhost.spec import Feature
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.device.vringconfig import PairConfig, VringConfig

RX_RING, TX_RING, RX_BUFFERS, TX_BUFFERS = 0x10000, 0x40000, 0x100000, 0x200000
PATIENCE = 60.0

MRG_RXBUF = Feature.MRG_RXBUF.mask
MODERN = Feature.VERSION_1.mask | MRG_RXBUF
OFFLOADS = (
    Feature.CSUM.mask | Feature.GUEST_CSUM.mask | Feature.HOST_TSO4.mask
    | Feature.HOST_TSO6.mask | Feature.HOST_ECN.mask | Feature.HOST_USO.mask
)  # fmt: skip
EVENT_IDX = Feature.RING_EVENT_IDX.mask
INDIRECT = Feature.RING_INDIRECT_DESC.mask
PACKED = Feature.RING_PACKED.mask
ALL = MODERN | EVENT_IDX | INDIRECT | OFFLOADS
EMPTY = bytes(12)
"""A virtio-net header that asks for nothing."""


def frame(length: int, seed: int = 1) -> bytes:
    """Bytes that differ from place to place and from frame to frame."""
    return bytes((seed * 31 + i * 7 + (i >> 8)) & 0xFF for i in range(length))


def await_that(condition: Callable[[], Any], what: str = "condition") -> Any:
    """Look until it is so: memory has no event to wait for."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"never came true: {what}")
        time.sleep(0.0005)
    return value


def not_for_ever(seconds: float) -> None:
    """Fail instead of waiting on for a loop that does not end."""
    assert seconds < PATIENCE / 4, "the loop does not end"


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "S"  # it has ended


class Rig:
    """Both rings of a pair; `wire` is what the bridge sees."""

    extra_features = 0
    """Negotiated by every rig; see `both_layouts`."""

    def __init__(
        self,
        *,
        size: int = 16,
        features: int = ALL,
        header_size: int = 12,
        first: int = 0,
        finish_offloads: bool = False,
        log_bytes: int | None = None,
        watch: fresh.Watch | None = None,
    ) -> None:
        self.memory = GuestMemory((RX_RING, 0x30000), (TX_RING, 0x30000), (RX_BUFFERS, 0x200000))
        features |= self.extra_features
        driver = PackedDriver if features & PACKED else Driver
        self.rx: Any = driver(self.memory, size, RX_RING, first)
        self.tx: Any = driver(self.memory, size, TX_RING, first)
        self.rx_fds, self.tx_fds = Eventfds(), Eventfds()
        self.tap, self.wire = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.wire.settimeout(PATIENCE)
        self.tap.setblocking(False)
        self.pair = QueuePair(0, self.tap.fileno(), watch=watch)
        self.pair.on_stuck = not_for_ever
        self.features, self.header_size = features, header_size
        self.finish_offloads = finish_offloads
        self.log = None if log_bytes is None else np.zeros(log_bytes, np.uint8)

    def config(self, **changes: Any) -> PairConfig:
        values: dict[str, Any] = {
            "rx": self.vring("rx"),
            "tx": self.vring("tx"),
            "regions": self.memory.table(),
            "log": self.log,
            "header_size": self.header_size,
            "features": self.features,
            "finish_offloads": self.finish_offloads,
        }
        return PairConfig(**(values | changes))

    def vring(self, kind: str, **changes: Any) -> VringConfig:
        driver, fds = (self.rx, self.rx_fds) if kind == "rx" else (self.tx, self.tx_fds)
        values: dict[str, Any] = {
            "size": driver.size,
            "next_avail": driver.seen,
            "kick_fd": fds.kick,
            "call_fd": fds.call,
            "err_fd": fds.err,
            "log_used": self.log is not None,
            "log_guest": driver.used,
            "log_desc": driver.desc,
        }
        return VringConfig(**(driver.views() | values | changes))

    def spoil(self, kind: str) -> Fault:
        """Offer what breaks a ring of either layout: the fault."""
        driver = self.rx if kind == "rx" else self.tx
        if isinstance(driver, Driver):
            driver.offer(99)
            return Fault.HEAD_OUT_OF_RANGE
        used = AVAIL | USED if driver.wrap(driver.next_avail) else 0
        driver.put_descriptor(driver.next_avail, 0, 0, 0, used)
        return Fault.WRAP_COUNTER_WRONG

    def start(self, **changes: Any) -> None:
        self.pair.prepare(self.config(**changes))
        self.pair.start()

    def kick(self, kind: str) -> None:
        os.eventfd_write((self.rx_fds if kind == "rx" else self.tx_fds).kick, 1)

    def called(self, kind: str) -> None:
        """Wait until the driver is called."""
        fd = (self.rx_fds if kind == "rx" else self.tx_fds).call
        assert select.select([fd], [], [], PATIENCE)[0], f"{kind} was not called"
        os.eventfd_read(fd)

    def offer_buffers(self, count: int, length: int, first: int = 0) -> None:
        """Receive buffers of one descriptor each, from descriptor `first` on."""
        for i in range(first, first + count):
            self.rx.chain(i, [(RX_BUFFERS + 0x8000 * i, length)], write=True)
        self.rx.offer(*range(first, first + count))

    def received(self) -> list[bytes]:
        """The frames that came into `offer_buffers`' buffers, headers included."""
        frames = []
        for chains in self.frames():
            parts = (self.memory.read(RX_BUFFERS + 0x8000 * head, n) for head, n in chains)
            frames.append(b"".join(parts))
        return frames

    def frames(self) -> list[list[tuple[int, int]]]:
        """Used elements, grouped to frames by num_buffers."""
        elements = self.rx.collect()
        frames = []
        while elements:
            count = 1
            if self.features & MRG_RXBUF:
                count = int.from_bytes(
                    self.memory.read(RX_BUFFERS + 0x8000 * elements[0][0] + 10, 2), "little"
                )
            frames.append(elements[:count])
            del elements[:count]
        return frames

    def transmit(self, data: bytes, pieces: list[int] | None = None, start: int = 0) -> None:
        """Offer header and frame in descriptors of the lengths `pieces`, from `start` on."""
        self.memory.write(TX_BUFFERS, data)
        buffers, at = [], 0
        for length in pieces or [len(data)]:
            buffers.append((TX_BUFFERS + at, length))
            at += length
        self.tx.offer(self.tx.chain(start, buffers, write=False))

    def idle(self) -> int:
        """Wait until the loop sleeps: the number of its wakeups then.

        A loop that has something to do, and waits for a processor, does not sleep (proc(5)).
        """

        def asleep() -> tuple[int] | None:
            wakeups = self.pair.counters["wakeups"]
            mine = str(threading.get_native_id())
            tasks = Path("/proc/self/task").iterdir()
            states = {_state(task) for task in tasks if task.name != mine}
            same = self.pair.counters["wakeups"] == wakeups
            return (wakeups,) if states <= {"S"} and same else None

        return int(await_that(asleep, "the loop sleeps")[0])

    def __enter__(self) -> Rig:
        return self

    def __exit__(
        self, kind: type | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pair.close()
        self.tap.close()
        self.wire.close()
        self.rx_fds.close()
        self.tx_fds.close()
