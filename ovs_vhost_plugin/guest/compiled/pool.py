# SPDX-License-Identifier: Apache-2.0
"""A vring of the compiled driver: its place in guest memory, its buffers, and its kernel's data."""

from __future__ import annotations

import numpy as np

from ovs_vhost_plugin.guest.compiled.memory import MarkedMemory
from ovs_vhost_plugin.guest.driver.memory import PAGE_SIZE
from ovs_vhost_plugin.guest.driver.split import DESCRIPTOR, F_WRITE, SplitQueue
from ovs_vhost_plugin.guest.frontend.frontend import VringSetup
from ovs_vhost_plugin.guest.soft import Config
from ovs_vhost_plugin.jit.driver import layout
from ovs_vhost_plugin.vhost.spec import Feature


class BufferRing:
    """A split ring whose descriptor i is buffer i, `count` of them with `length` bytes each.

    `SplitQueue` only gives the ring its place and its beginning; the kernels work on it. What they
    know of it is in arrays that last when the memory is another.
    """

    def __init__(self, memory: MarkedMemory, config: Config, length: int, count: int) -> None:
        size, event_index = config.size, config.has(Feature.RING_EVENT_IDX)
        begin = memory.allocate(PAGE_SIZE, PAGE_SIZE)
        self.queue = SplitQueue(memory, size, event_index, config.first_index)
        self._buffers = memory.allocate(length * count, PAGE_SIZE)
        memory.mark_always(begin, self._buffers - begin)
        self._count = count
        self._state = np.zeros(1, layout.DRIVER_RING_DTYPE)
        self._state["size"] = size
        self._state["event_idx"] = event_index
        self._state["stride"] = self._state["length"] = length
        self._free = np.zeros(count, np.int64)
        self._state["first_page"] = memory.page_index(self._buffers)
        for place in ("next", "published", "seen"):
            self._state[place] = config.first_index

    def describe(self, memory: MarkedMemory, *, writable: bool) -> None:
        """Write all descriptors; a writable buffer is offered whole, others have no length yet."""
        length, flags = (int(self._state["length"][0]), F_WRITE) if writable else (0, 0)
        table = memory.view(self.queue.desc_address, DESCRIPTOR.size * self._count)
        for i in range(self._count):
            address = self._buffers + i * int(self._state["stride"][0])
            DESCRIPTOR.pack_into(table, DESCRIPTOR.size * i, address, length, flags, 0)

    def free_all(self) -> None:
        """Make all buffers free, the first one to be taken first."""
        self._free[:] = np.arange(self._count)[::-1]
        self._state["free"] = self._count

    def data(self, memory: MarkedMemory, vring: VringSetup) -> layout.DriverRing:
        """The kernels' data of the ring, which is in `memory` now."""
        queue, size = self.queue, self.queue.size
        first = memory.array(self._buffers, 1, np.uint8)
        self._state["buffers"] = first.ctypes.data
        self._state["kick_fd"] = vring.kick.fileno()
        self._state["call_fd"] = vring.call.fileno()
        return layout.DriverRing(
            desc=memory.array(queue.desc_address, 2 * size, np.uint64),
            avail=memory.array(queue.avail_address, 3 + size, np.uint16),
            used=memory.array(queue.used_address, 3 + 4 * size, np.uint16),
            elements=memory.array(queue.used_address + 4, 2 * size, np.uint32),
            free=self._free,
            state=self._state,
        )
