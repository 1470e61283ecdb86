# SPDX-License-Identifier: Apache-2.0
"""Kernels that are killed after any instruction, in memory that outlives them."""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types
from support.jit.kernel_views import kernel_memory, kernel_ring
from support.jit.packed_reference import PackedDriver
from support.jit.pair_rig import frame
from support.jit.ring_reference import Driver, GuestMemory

from bench import singlestep
from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import LEARNED_T, MEMORY_T, NET_T, QUEUE_T, VRING_T
from ovs_vhost_plugin.jit.net.receive import receive
from ovs_vhost_plugin.jit.net.transmit import transmit
from ovs_vhost_plugin.jit.recovery.journal import WORDS
from ovs_vhost_plugin.jit.recovery.resume import resume

RING, BUFFERS = 0x10000, 0x20000
SIZE, CHAINS = 16, 6
HEADER, LENGTH = 12, 100
MARKER = int(singlestep.MARKER)

raise_signal = types.ExternalFunction("raise", types.int32(types.int32))
burst = kernel(types.void(VRING_T, QUEUE_T, MEMORY_T, NET_T, LEARNED_T))


@burst
def run_transmit(ring, queue, memory, net, learned):  # type: ignore[no-untyped-def]
    raise_signal(MARKER)
    transmit(ring, queue, memory, net, learned)
    raise_signal(MARKER)


@burst
def run_receive(ring, queue, memory, net, learned):  # type: ignore[no-untyped-def]
    raise_signal(MARKER)
    receive(ring, queue, memory, net, learned)
    raise_signal(MARKER)


@kernel(types.void(VRING_T, MEMORY_T, NET_T))
def run_resume(ring, memory, net):  # type: ignore[no-untyped-def]
    raise_signal(MARKER)
    resume(ring, memory, net)
    raise_signal(MARKER)


class SharedMemory(GuestMemory):
    """Guest memory that a child's writes are seen in."""

    def __init__(self, *regions: tuple[int, int]) -> None:
        super().__init__(*regions)
        self.parts = [
            (guest, np.frombuffer(mmap.mmap(-1, len(array)), np.uint8))
            for guest, array in self.parts
        ]


@dataclass
class Case:
    """A ring with all chains offered, from position `first`."""

    packed: bool
    in_order: bool
    writes: bool
    first: int
    pieces: int  # descriptors a chain

    def __post_init__(self) -> None:
        self.guest = SharedMemory((RING, 0x1000), (BUFFERS, 0x1000))
        self.journal = np.frombuffer(mmap.mmap(-1, 8 * WORDS), np.int64)
        kind = PackedDriver if self.packed else Driver
        self.driver: Any = kind(self.guest, SIZE, RING, self.first)
        self.driver.in_order = self.in_order and not self.writes
        self.memory = kernel_memory(self.guest)
        self.queue = fresh.new_queue()
        self.ids = [self._offer(i) for i in range(CHAINS)]

    def _offer(self, i: int) -> int:
        at, length = BUFFERS + 0x200 * i, HEADER + LENGTH
        if not self.writes:
            self.guest.write(at, bytes(HEADER) + frame(LENGTH, i))
        cuts = [0, HEADER, length] if self.pieces == 2 else [0, length]
        pieces = [(at + a, b - a) for a, b in itertools.pairwise(cuts)]
        self.driver.offer(self.driver.chain(2 * i, pieces, write=self.writes))
        return 2 * i

    def ring(self, at: int | None = None) -> layout.Vring:
        """As a worker has it that goes on at `at`, or starts where its front-end says.

        That is where it began if it is packed, and at the used index if it is split.
        """
        if at is None:
            at = self.driver.seen if self.packed else self.driver.used_idx
        state = {
            "packed": self.packed,
            "in_order": self.in_order,
            "writes": self.writes,
            **dict.fromkeys(("next_avail", "next_pop", "avail_idx", "next_used"), at),
            "flushed": at,
        }
        return kernel_ring(self.driver, **state)._replace(journal=self.journal)

    def kept(self) -> list[np.ndarray]:
        """All that outlives a process."""
        return [self.guest.view(RING, 0x1000), self.journal[:64]]


def new_net(fd: int) -> layout.Net:
    net = fresh.new_net()
    for name, value in {"cfg_tap_fd": fd, "cfg_header_size": HEADER, "cfg_mergeable": 1}.items():
        net.state[name] = value
    return net


def states_of(case: Any, run: Callable[[], None], pipe: int = -1) -> dict[bytes, set[int]]:
    """Every state that `run` passes through, with the numbers of frames in `pipe` in it."""
    found: dict[bytes, set[int]] = {}
    for state, waiting in singlestep.states(run, case.kept(), pipe):
        found.setdefault(state, set()).add(waiting // (HEADER + LENGTH))
    return found
