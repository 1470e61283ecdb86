# SPDX-License-Identifier: Apache-2.0
"""A guest whose driver is compiled: Linux's own stack on a port, in threads without the GIL.

It has split or packed rings, mergeable receive buffers, and segmentation offloads both ways where
the back-end offers them. Each queue pair is a thread with a queue of the tap. Control is Python's,
as in `soft.py`, and migration is that of `migrate.py`.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from ovs_vhost_plugin.guest.compiled.memory import MarkedMemory
from ovs_vhost_plugin.guest.compiled.pair import CompiledPair, memory_needed
from ovs_vhost_plugin.guest.compiled.tap import NetworkStack
from ovs_vhost_plugin.guest.driver.memory import GuestMemory
from ovs_vhost_plugin.guest.driver.responder import Responder
from ovs_vhost_plugin.guest.driver.split import DeviceBrokenError
from ovs_vhost_plugin.guest.frontend.connection import FrontEndConnection, listen
from ovs_vhost_plugin.guest.frontend.device import start_device
from ovs_vhost_plugin.guest.frontend.frontend import FrontEnd, VringSetup
from ovs_vhost_plugin.guest.soft import Config
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


class CompiledGuest:
    """Queue pairs between a back-end and `tap`, in client mode, or (`server`) listening."""

    def __init__(
        self, path: Path, config: Config, tap: NetworkStack, *, server: bool = False
    ) -> None:
        self.path = path
        self.config = config
        self.tap = tap
        self.features = config.acknowledged
        """Features that are acknowledged; from the first session on, the negotiated ones."""
        self.frontend: FrontEnd | None = None
        self.memory = MarkedMemory.of_size(config.queue_pairs * memory_needed(config.size))
        self.pairs = [
            CompiledPair(index, self.memory, config, tap.fds[index])
            for index in range(config.queue_pairs)
        ]
        self._listener: socket.socket | None = listen(path) if server else None

    @property
    def vrings(self) -> list[VringSetup]:
        """All vrings in the order of their indices."""
        return [vring for pair in self.pairs for vring in pair.vrings]

    @property
    def counters(self) -> dict[str, int]:
        """Counts of all pairs since the guest was made, by name."""
        counts = [pair.counters for pair in self.pairs]
        return {name: sum(one[name] for one in counts) for name in counts[0]}

    @property
    def running(self) -> bool:
        """Whether the driver serves all rings."""
        return all(pair.running for pair in self.pairs)

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
        for pair in self.pairs:
            pair.run(self.memory)
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

    def announce(self) -> None:
        """Announce the guest, as a driver does that acknowledged GUEST_ANNOUNCE."""
        if self.config.address is not None:
            self.tap.send(Responder(self.config.mac, self.config.address).announcement())

    def check(self) -> None:
        """Raise DeviceBrokenError when the driver of a pair has ended by itself."""
        if any(pair.broken for pair in self.pairs):
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
        for pair in self.pairs:
            pair.close()
        if self._listener is not None:
            self._listener.close()
        self.memory.close()

    def _halt(self) -> None:
        for pair in self.pairs:
            pair.halt()
