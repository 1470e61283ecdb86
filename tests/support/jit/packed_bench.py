# SPDX-License-Identifier: Apache-2.0
"""A packed ring's driver and the kernels' view of the ring, on the same memory."""

from __future__ import annotations

from support.jit.kernel_views import kernel_memory, kernel_ring
from support.jit.packed_reference import PackedDriver
from support.jit.ring_reference import GuestMemory

from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.ring.packed import add_used, flush_used, pop_avail

LOW = 0x10000
BUFFERS = LOW + 0x8000
ALL = 1 << 40
BUFFER = (BUFFERS, 10)


class Bench:
    """A driver and the device's ring on the same memory."""

    def __init__(
        self, size: int = 8, first: int = 0, log_bytes: int = 0, base: int = LOW, **state: int
    ) -> None:
        memory = GuestMemory((LOW, 0x20000))
        self.driver = PackedDriver(memory, size, base, first, bool(state.get("in_order")))
        self.ring = kernel_ring(self.driver, packed=1, **state)
        self.memory = kernel_memory(memory, log_bytes)
        self.queue, self.net = fresh.new_queue(), fresh.new_net()

    def pop_avail(self, chains: int = 64, length: int = ALL) -> int:
        return int(pop_avail(self.ring, self.memory, self.queue, chains, length))

    def add_used(self, count: int = 1, written: int = 0) -> None:
        for _ in range(count):
            add_used(self.ring, self.queue, written)

    def flush_used(self) -> bool:
        return bool(flush_used(self.ring, self.memory, self.net))

    @property
    def held(self) -> list[int]:
        """Buffer ids of the chains that are held, oldest first."""
        state = self.queue.state[0]
        places = (int(state["head"]) + i for i in range(int(state["count"])))
        return [int(self.queue.chains[at % layout.CHAINS]["head"]) for at in places]
