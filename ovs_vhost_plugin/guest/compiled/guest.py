# SPDX-License-Identifier: Apache-2.0
"""A guest whose driver is compiled: Linux's own stack on a port, in a thread without the GIL.

It has one queue pair of split rings, mergeable receive buffers, and segmentation offloads both ways
where the back-end offers them. Control is Python's, as in `soft.py`, and migration is that of
`migrate.py`.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovs_vhost_plugin.guest.compiled.memory import MarkedMemory
from ovs_vhost_plugin.guest.compiled.pool import BufferRing
from ovs_vhost_plugin.guest.compiled.tap import NetworkStack
from ovs_vhost_plugin.guest.driver.memory import PAGE_SIZE, GuestMemory
from ovs_vhost_plugin.guest.driver.responder import Responder
from ovs_vhost_plugin.guest.driver.split import DeviceBrokenError
from ovs_vhost_plugin.guest.frontend.connection import FrontEndConnection, listen
from ovs_vhost_plugin.guest.frontend.device import start_device
from ovs_vhost_plugin.guest.frontend.frontend import FrontEnd, VringSetup
from ovs_vhost_plugin.guest.soft import Config
from ovs_vhost_plugin.jit.driver import layout, loop
from ovs_vhost_plugin.jit.driver.split import add_avail, publish
from ovs_vhost_plugin.jit.layout import IOVEC_DTYPE, POLLFD_DTYPE
from ovs_vhost_plugin.vhost.spec import Feature

OFFLOADS = (
    Feature.CSUM.mask
    | Feature.GUEST_CSUM.mask
    | Feature.HOST_TSO4.mask
    | Feature.HOST_TSO6.mask
    | Feature.GUEST_TSO4.mask
    | Feature.GUEST_TSO6.mask
)
"""Acknowledged where the back-end offers them."""

RX_BUFFER = PAGE_SIZE
TX_BUFFER = 17 * PAGE_SIZE
"""For the largest frame and its header."""
MOST_TX_BUFFERS = 256
"""However long the ring: those used last are in the cache, and most are never touched."""


class CompiledGuest:
    """A queue pair between a back-end and `tap`, in client mode, or (`server`) listening."""

    def __init__(
        self, path: Path, config: Config, tap: NetworkStack, *, server: bool = False
    ) -> None:
        self.path = path
        self.config = config
        self.tap = tap
        self.features = config.features
        """Features that are acknowledged; from the first session on, the negotiated ones."""
        self.frontend: FrontEnd | None = None
        self.memory = MarkedMemory.of_size(_memory_needed(config.size))
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stop = np.zeros(1, np.int64)
        self._thread: threading.Thread | None = None
        self._rx = BufferRing(self.memory, config, RX_BUFFER, config.size)
        self._tx = BufferRing(self.memory, config, TX_BUFFER, min(config.size, MOST_TX_BUFFERS))
        self.vrings = [VringSetup(0, self._rx.queue), VringSetup(1, self._tx.queue)]
        self._counters = np.zeros(1, layout.DRIVER_COUNTERS_DTYPE)
        self._state = np.zeros(1, layout.STACK_DTYPE)
        self._state["cfg_tap_fd"] = tap.fd
        self._state["cfg_wake_fd"] = self._wake_fd
        self._data = self._arrange()
        self._listener: socket.socket | None = listen(path) if server else None
        self._rx.describe(self.memory, writable=True)
        self._tx.describe(self.memory, writable=False)
        self._tx.free_all()
        for head in range(config.size):
            add_avail(self._data.rx, head)
        publish(self._data.rx)

    @property
    def counters(self) -> dict[str, int]:
        """Counts since the guest was made, by name."""
        names = layout.DRIVER_COUNTERS_DTYPE.names or ()
        return {name: int(self._counters[name][0]) for name in names}

    @property
    def running(self) -> bool:
        """Whether the driver serves tap and rings."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Connect, and run; also after the back-end was lost, when the rings go on."""
        self._halt()
        if self.frontend is not None:
            self.frontend.close()
        self.begin(self.connect())

    def begin(self, frontend: FrontEnd) -> None:
        """Run on a new session, with those of the offloads that are offered."""
        wanted = self.features
        self.features = wanted & ~OFFLOADS | wanted & OFFLOADS & frontend.offered
        self.run_on(frontend, [vring.queue.base for vring in self.vrings])

    def connect(self) -> FrontEnd:
        """A new session with a back-end at this guest's path, not yet running."""
        timeout = self.config.timeout
        if self._listener is not None:
            frontend = FrontEnd(FrontEndConnection.accept(self._listener, timeout))
        else:
            frontend = FrontEnd(FrontEndConnection.connect(self.path, timeout))
        frontend.initialise()
        return frontend

    def run_on(self, frontend: FrontEnd, bases: Sequence[int]) -> None:
        """Hand the device over to `frontend`, and run the driver."""
        self.frontend = frontend
        self.tap.set_offloads(self.features)
        mtu = self.config.mtu
        start_device(frontend, self.features, self.memory, self.vrings, bases, mtu)
        self._run()
        for vring in self.vrings:
            frontend.kick(vring)  # a device may wait for it, and buffers may be there already

    def stop_rings(self) -> list[int]:
        """Stop the driver, as a machine that is paused, then all vrings; return the bases."""
        self._halt()
        if self.frontend is None:
            raise RuntimeError("start() comes first")
        return [self.frontend.stop_vring(vring.index) for vring in self.vrings]

    def move_to(self, memory: GuestMemory) -> None:
        """Move to other memory with the same content; the rings must be stopped."""
        assert isinstance(memory, MarkedMemory)
        self.memory.close()
        self.memory = memory
        for vring in self.vrings:
            vring.queue.move_to(memory)
        self._data = self._arrange()

    def announce(self) -> None:
        """Announce the guest, as a driver does that acknowledged GUEST_ANNOUNCE."""
        if self.config.address is not None:
            self.tap.send(Responder(self.config.mac, self.config.address).announcement())

    def check(self) -> None:
        """Raise DeviceBrokenError when the driver has ended by itself."""
        if self._state["fault"][0]:
            raise DeviceBrokenError("a chain was used that was not offered, or the tap has gone")

    def stop(self) -> None:
        """Stop the rings if there is a back-end, then `close`."""
        try:
            if self.frontend is not None:
                self.stop_rings()
        finally:
            self.close()

    def close(self) -> None:
        """Drop everything at once, like a machine that is switched off. The tap is left."""
        self._halt()
        if self.frontend is not None:
            self.frontend.close()
            self.frontend = None
        for vring in self.vrings:
            vring.close()
        if self._listener is not None:
            self._listener.close()
        os.close(self._wake_fd)
        self.memory.close()

    def _run(self) -> None:
        self._stop[0] = 0
        self._thread = threading.Thread(
            target=loop.run, args=(self._data,), name="guest", daemon=True
        )
        self._thread.start()

    def _halt(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop[0] = 1
            os.eventfd_write(self._wake_fd, 1)
            thread.join()

    def _arrange(self) -> layout.TapGuest:
        """The kernels' data on the present memory."""
        return layout.TapGuest(
            rx=self._rx.data(self.memory, self.vrings[0]),
            tx=self._tx.data(self.memory, self.vrings[1]),
            iov=np.zeros(self.config.size, IOVEC_DTYPE),
            written=self.memory.marks,
            poll=np.zeros(4, POLLFD_DTYPE),
            scratch=np.zeros(6, np.int64),
            counters=self._counters,
            state=self._state,
            stop=self._stop,
        )


def _memory_needed(size: int) -> int:
    rings = 2 * (40 * size + 8 * PAGE_SIZE)
    return size * RX_BUFFER + min(size, MOST_TX_BUFFERS) * TX_BUFFER + rings
