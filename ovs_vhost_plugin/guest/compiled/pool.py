# SPDX-License-Identifier: Apache-2.0
"""A vring of the compiled driver: its place in guest memory, its buffers, and its kernel's data."""

from __future__ import annotations

import numpy as np

from ovs_vhost_plugin.guest.compiled.memory import MarkedMemory
from ovs_vhost_plugin.guest.driver.memory import PAGE_SIZE
from ovs_vhost_plugin.guest.driver.packed import PackedQueue, Virtqueue
from ovs_vhost_plugin.guest.driver.split import SplitQueue
from ovs_vhost_plugin.guest.frontend.frontend import VringSetup
from ovs_vhost_plugin.guest.soft import Config
from ovs_vhost_plugin.jit.driver import layout
from ovs_vhost_plugin.jit.driver.ring import offer_all
from ovs_vhost_plugin.jit.layout import Records
from ovs_vhost_plugin.vhost import packed_base
from ovs_vhost_plugin.vhost.spec import Feature


class BufferRing:
    """A ring and `count` buffers of `length` bytes each; `writes`: the device writes them.

    A `Virtqueue` only gives the ring its place and its beginning; the kernels work on it. What they
    know of it is in arrays that last when the memory is another.
    """

    def __init__(
        self, memory: MarkedMemory, config: Config, length: int, count: int, *, writes: bool
    ) -> None:
        begin = memory.allocate(PAGE_SIZE, PAGE_SIZE)
        self._state = np.zeros(1, layout.DRIVER_RING_DTYPE)
        self.queue = _make_queue(memory, config, self._state)
        self._buffers = memory.allocate(length * count, PAGE_SIZE)
        memory.mark_always(begin, self._buffers - begin)
        self._free = np.arange(count)[::-1].copy()  # the first one is taken first
        self._offered = np.zeros(count, np.uint8)
        values = {
            "size": config.size,
            "packed": config.has(Feature.RING_PACKED),
            "event_idx": config.has(Feature.RING_EVENT_IDX),
            "writes": writes,
            "guest": self._buffers,
            "length": length,
            "first_page": memory.page_index(self._buffers),
            "free": count,
        }
        for name, value in values.items():
            self._state[name] = value

    def fill(self, memory: MarkedMemory, vring: VringSetup) -> None:
        """Offer all buffers, which the device sees with the first that is published."""
        offer_all(self.data(memory, vring))

    def data(self, memory: MarkedMemory, vring: VringSetup) -> layout.DriverRing:
        """The kernels' data of the ring, which is in `memory` now."""
        queue, size = self.queue, self.queue.size
        self._state["buffers"] = memory.array(self._buffers, 1, np.uint8).ctypes.data
        self._state["kick_fd"] = vring.kick.fileno()
        self._state["call_fd"] = vring.call.fileno()
        split = isinstance(queue, SplitQueue)
        areas = (3 + size, 3 + 4 * size, 2 * size) if split else (2, 2, 0)
        return layout.DriverRing(
            desc=memory.array(queue.desc_address, 2 * size, np.uint64),
            avail=memory.array(queue.avail_address, areas[0], np.uint16),
            used=memory.array(queue.used_address, areas[1], np.uint16),
            elements=memory.array(queue.used_address + 4, areas[2], np.uint32),
            free=self._free,
            offered=self._offered,
            state=self._state,
        )


class _PackedPlace(PackedQueue):
    """A packed ring on which the kernels work; `state` is theirs."""

    def __init__(self, memory: MarkedMemory, config: Config, state: Records) -> None:
        super().__init__(
            memory, config.size, config.has(Feature.RING_EVENT_IDX), config.first_index
        )
        self._state = state

    @property
    def base(self) -> int:
        """As PackedQueue: behind the chains that the kernels collected, and those used since."""
        position = int(self._state["seen"][0])
        for _ in range(self.size):
            if not self._is_used(position):
                break
            position = self._advance(position, 1)
        return packed_base.encode(position, self.size)


def _make_queue(memory: MarkedMemory, config: Config, state: Records) -> Virtqueue:
    """The ring's place, with what it begins with; `state` is set to its beginning."""
    packed, first = config.has(Feature.RING_PACKED), config.first_index
    for place in ("next", "published", "seen"):
        state[place] = first % (2 * config.size) if packed else first
    if packed:
        return _PackedPlace(memory, config, state)
    return SplitQueue(memory, config.size, config.has(Feature.RING_EVENT_IDX), first)
