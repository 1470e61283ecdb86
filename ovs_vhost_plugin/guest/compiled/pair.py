# SPDX-License-Identifier: Apache-2.0
"""A queue pair of the compiled guest: two rings, a queue of the tap, and the thread between them.

Pairs share memory and nothing else, so each runs by itself, as a guest's processors do.
"""

from __future__ import annotations

import os
import threading

import numpy as np

from ovs_vhost_plugin.guest.compiled.memory import MarkedMemory
from ovs_vhost_plugin.guest.compiled.pool import BufferRing
from ovs_vhost_plugin.guest.driver.memory import PAGE_SIZE
from ovs_vhost_plugin.guest.frontend.frontend import VringSetup
from ovs_vhost_plugin.guest.soft import Config
from ovs_vhost_plugin.jit.driver import layout, loop
from ovs_vhost_plugin.jit.layout import IOVEC_DTYPE, POLLFD_DTYPE

RX_BUFFER = PAGE_SIZE
TX_BUFFER = 17 * PAGE_SIZE
"""For the largest frame and its header."""
MOST_TX_BUFFERS = 256
"""However long the ring: those used last are in the cache, and most are never touched."""


class CompiledPair:
    """Vrings 2i and 2i+1, and what drives them while the device runs."""

    def __init__(self, index: int, memory: MarkedMemory, config: Config, tap_fd: int) -> None:
        size = config.size
        self._rx = BufferRing(memory, config, RX_BUFFER, size, writes=True)
        self._tx = BufferRing(memory, config, TX_BUFFER, min(size, MOST_TX_BUFFERS), writes=False)
        self.vrings = [
            VringSetup(2 * index + at, ring.queue) for at, ring in enumerate((self._rx, self._tx))
        ]
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stop = np.zeros(1, np.int64)
        self._thread: threading.Thread | None = None
        self._counters = np.zeros(1, layout.DRIVER_COUNTERS_DTYPE)
        self._state = np.zeros(1, layout.STACK_DTYPE)
        self._state["cfg_tap_fd"] = tap_fd
        self._state["cfg_wake_fd"] = self._wake_fd
        self._iov = np.zeros(size, IOVEC_DTYPE)
        self._rx.fill(memory, self.vrings[0])

    @property
    def counters(self) -> dict[str, int]:
        """Counts since the pair was made, by name."""
        names = layout.DRIVER_COUNTERS_DTYPE.names or ()
        return {name: int(self._counters[name][0]) for name in names}

    @property
    def running(self) -> bool:
        """Whether the driver serves tap and rings."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def broken(self) -> bool:
        """Whether the driver has ended by itself."""
        return bool(self._state["fault"][0])

    def run(self, memory: MarkedMemory) -> None:
        """Drive the rings, which are in `memory` now, in a thread."""
        self._stop[0] = 0
        data = self._arrange(memory)
        self._thread = threading.Thread(target=loop.run, args=(data,), name="guest", daemon=True)
        self._thread.start()

    def halt(self) -> None:
        """Stop the driver, as a machine that is paused."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop[0] = 1
            os.eventfd_write(self._wake_fd, 1)
            thread.join()

    def close(self) -> None:
        """Close the eventfds; the driver has been stopped."""
        for vring in self.vrings:
            vring.close()
        os.close(self._wake_fd)

    def _arrange(self, memory: MarkedMemory) -> layout.TapGuest:
        """The kernels' data."""
        return layout.TapGuest(
            rx=self._rx.data(memory, self.vrings[0]),
            tx=self._tx.data(memory, self.vrings[1]),
            iov=self._iov,
            written=memory.marks,
            poll=np.zeros(4, POLLFD_DTYPE),
            scratch=np.zeros(6, np.int64),
            counters=self._counters,
            state=self._state,
            stop=self._stop,
        )


def memory_needed(size: int) -> int:
    """Bytes of guest memory that a pair with rings of `size` takes, or a little less."""
    rings = 2 * (40 * size + 8 * PAGE_SIZE)
    return size * RX_BUFFER + min(size, MOST_TX_BUFFERS) * TX_BUFFER + rings
