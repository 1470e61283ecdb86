# SPDX-License-Identifier: Apache-2.0
"""One case of rings that change under the loop that reads them: it stays within memory, and ends.

The queue pair runs in its thread while this one scribbles over both rings and an indirect table.
Nobody can say what is to come of it; memory and private arrays are guarded, which says enough.
"""

from __future__ import annotations

import os
import random
import socket
import struct
from unittest.mock import patch

import numpy as np
from support.fuzz.guarded_memory import GuardedMemory, guarded_zeros
from support.jit.ring_reference import INDIRECT, NEXT, WRITE, Driver, Eventfds, descriptor

from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.vhost.spec import Feature
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.device.vringconfig import PairConfig, VringConfig

RINGS, TABLE, BUFFERS, SIZE = 0x10000, 0x20000, 0x30000, 8
END = BUFFERS + 0x10031
_FEATURES = (
    Feature.MRG_RXBUF,
    Feature.RING_EVENT_IDX,
    Feature.RING_INDIRECT_DESC,
    Feature.CSUM,
    Feature.HOST_TSO4,
)
_ROUNDS, _STARTS = 60, 4


class Storm:
    """A driver gone mad, by a seed."""

    def __init__(self, seed: int, features: int) -> None:
        self.random = random.Random(seed)
        self.memory = GuardedMemory((RINGS, 0x2000), (TABLE, 0x400), (BUFFERS, END - BUFFERS))
        self.drivers = {
            "rx": Driver(self.memory, SIZE, RINGS),
            "tx": Driver(self.memory, SIZE, RINGS + 0x1000),
        }
        self.fds = {kind: Eventfds() for kind in self.drivers}
        self.tap, self.wire = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.tap.setblocking(False)
        self.wire.setblocking(False)
        self.features = sum(bit.mask for i, bit in enumerate(_FEATURES) if features >> i & 1)
        with patch.object(np, "zeros", guarded_zeros):
            self.pair = QueuePair(0, self.tap.fileno())
        self.log = guarded_zeros((END >> 12) // 8 + 1, np.uint8)

    def start(self) -> None:
        """As after GET_VRING_BASE and a reset by the guest: at the used index."""
        vrings = {
            kind: VringConfig(
                size=SIZE,
                next_avail=driver.used_idx,
                kick_fd=self.fds[kind].kick,
                call_fd=self.fds[kind].call,
                err_fd=self.fds[kind].err,
                log_used=True,
                log_guest=driver.used,
                **driver.views(),
            )
            for kind, driver in self.drivers.items()
        }
        for driver in self.drivers.values():
            driver.next_avail = driver.used_idx
            driver.put(driver.avail + 2, driver.next_avail)
        self.pair.prepare(
            PairConfig(
                rx=vrings["rx"],
                tx=vrings["tx"],
                regions=self.memory.table(),
                log=self.log,
                header_size=12,
                features=self.features,
                finish_offloads=bool(self.random.getrandbits(1)),
            )
        )
        self.pair.start()

    def scribble(self) -> None:
        """Change some descriptors, and offer some."""
        for kind, driver in self.drivers.items():
            for _ in range(4):
                driver.memory.write(driver.desc + 16 * self.random.randrange(SIZE), self.entry())
                self.memory.write(TABLE + 16 * self.random.randrange(64), self.entry())
            count = (driver.used_idx + SIZE - driver.next_avail) & 0xFFFF
            if count <= SIZE:
                driver.offer(*(self.random.randrange(SIZE) for _ in range(count)))
            os.eventfd_write(self.fds[kind].kick, 1)
        header = struct.pack("<BBHHHHH", 1, self.random.choice([0, 1, 4]), 54, 100, 34, 16, 0)
        self.memory.write(BUFFERS, self.random.choice([header, bytes(12)]))
        try:
            self.wire.send(bytes(self.random.choice([12, 100, 1514, 40000])))
            while True:
                self.wire.recv(1 << 17)
        except BlockingIOError:
            pass

    def entry(self) -> bytes:
        """A descriptor that is good, or nearly."""
        choose = self.random.choice
        address = choose([BUFFERS, BUFFERS + self.random.randrange(0x10000), END - 40, TABLE, 0])
        length = choose([1, 13, 100, 1514, 40, 0x10000])
        flags = choose([0, 0, NEXT, WRITE, WRITE | NEXT, INDIRECT])
        if flags == INDIRECT:
            address, length = TABLE, choose([16, 64, 1024])
        return descriptor(address, length, flags, self.random.randrange(SIZE + 1))

    def close(self) -> None:
        self.pair.close()
        self.tap.close()
        self.wire.close()
        for fds in self.fds.values():
            fds.close()


def run(case: tuple[int, int]) -> None:
    """Run one case; AssertionError if something was that must not be."""
    storm = Storm(*case)
    try:
        for _ in range(_STARTS):
            storm.start()
            for _ in range(_ROUNDS):
                storm.scribble()
            storm.pair.stop()
            storm.memory.check()
            for _, fault in storm.pair.take_faults():
                assert Fault(fault).breaks_ring
            for ring in storm.pair.rings:
                ring.stop()  # as by GET_VRING_BASE, which a broken ring needs
        assert not storm.pair.counters.get("fault_log_too_small")
    finally:
        storm.close()
