# SPDX-License-Identifier: Apache-2.0
"""The built-in software guest as the demo's subject: no QEMU, no kernel, no boot.

The software guest acts only when called, so a thread serves it. A migration runs in that same
thread, between two looks at the ring, as a real hypervisor also stops everything for the switch.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

from ovs_vhost_plugin.guest.frontend.connection import BackEndError, FrontEndConnection, listen
from ovs_vhost_plugin.guest.frontend.frontend import FrontEnd
from ovs_vhost_plugin.guest.migrate import Migration
from ovs_vhost_plugin.guest.soft import FEATURES, Config, SoftGuest
from ovs_vhost_plugin.lab.guests.movable import Move
from ovs_vhost_plugin.lab.hosts.host import Host
from ovs_vhost_plugin.lab.measure.capture import Frame
from ovs_vhost_plugin.lab.process import LabError
from ovs_vhost_plugin.vhost.spec import Feature

MAC = bytes.fromhex("525400000001")
ADDRESS = IPv4Address("10.0.0.2")

_SERVE_SECONDS = 0.05
_MOST_COPIES = 20
_FEW_PAGES = 16


class SoftMovable:
    """A guest that sends nothing unasked, unless it announces itself."""

    def __init__(self, *, announces: bool) -> None:
        self.mac = MAC.hex(":")
        self.address = str(ADDRESS)
        announce = Feature.GUEST_ANNOUNCE.mask if announces else 0
        self._config = Config(mac=MAC, features=FEATURES | announce, timeout=20.0, address=ADDRESS)
        self._guest: SoftGuest | None = None
        self._destination: FrontEnd | None = None
        self._port = 0
        self._payloads: list[bytes] = []
        self._orders: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._moved: queue.SimpleQueue[Move | None] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._serve, name="guest", daemon=True)

    def boot(self, host: Host, socket: Path) -> None:
        """Listen for the back-end and start the rings."""
        self._guest = SoftGuest(socket, self._config)
        with _as_lab_error():
            bases = [vring.queue.base for vring in self._guest.vrings]
            self._guest.run_on(self._accept(socket), bases)
        self._thread.start()

    def listen(self, port: int) -> None:
        """Keep data that comes to a UDP port."""
        self._port = port
        self._payloads = []

    def speak(self) -> None:
        """Send a gratuitous ARP."""
        self._orders.put("speak")

    def prepare(self, host: Host, socket: Path) -> None:
        """Listen for the other back-end and negotiate the features with it."""
        with _as_lab_error():
            self._destination = self._accept(socket)

    def migrate(self) -> Move:
        """Live-migrate as QEMU would."""
        self._orders.put("migrate")
        moved = self._moved.get()
        self._check()
        if moved is None:
            raise LabError("the software guest has ended")
        return moved

    def received_size(self) -> int:
        """The payloads' bytes so far."""
        return len(self.received())

    def unread(self) -> int:
        """Nothing: the guest answers as it receives."""
        return 0

    def received(self) -> bytes:
        """The payloads so far."""
        self._check()
        return b"".join(self._payloads)

    def close(self) -> None:
        """End the thread and the guest."""
        if self._thread.is_alive():
            self._orders.put(None)
            self._thread.join()
        if self._guest is not None:
            self._guest.close()

    def _accept(self, socket: Path) -> FrontEnd:
        """Accept a session with the back-end of a port, then stop listening."""
        socket.unlink(missing_ok=True)  # of an earlier stay
        with listen(socket) as listener:
            frontend = FrontEnd(FrontEndConnection.accept(listener, self._config.timeout))
        frontend.initialise()
        return frontend

    def _serve(self) -> None:
        guest = self._running()
        try:
            while True:
                self._take(_SERVE_SECONDS)
                if self._orders.empty():
                    continue
                order = self._orders.get()
                if order is None:
                    return
                if order == "speak":
                    guest.announce()
                else:
                    self._migrate(guest)
        except Exception as error:  # the next call raises the error that ended the guest
            self._failure = error
            self._moved.put(None)

    def _take(self, seconds: float) -> None:
        for frame in self._running().receive(seconds):
            payload = Frame(0.0, True, frame).udp_payload(self._port)
            if payload is not None:
                self._payloads.append(payload)

    def _migrate(self, guest: SoftGuest) -> None:
        if self._destination is None:
            raise LabError("there is no destination")
        move = Migration(guest, self._destination)
        started = time.monotonic()
        move.begin()
        for _ in range(_MOST_COPIES):
            self._take(0.0)
            if move.copy_dirty() <= _FEW_PAGES:
                break
        stopped = time.monotonic()
        move.switch()
        resumed = time.monotonic()
        downtime, total = (1e3 * (resumed - since) for since in (stopped, started))
        move.release_source()
        self._moved.put(Move(started, stopped, resumed, resumed, downtime, total))
        move.announce(self._serve_for)

    def _serve_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._take(left)

    def _check(self) -> None:
        if self._failure is not None:
            raise LabError(f"the software guest: {self._failure!r}") from self._failure

    def _running(self) -> SoftGuest:
        if self._guest is None:
            raise LabError("the guest is not running")
        return self._guest


@contextlib.contextmanager
def _as_lab_error() -> Iterator[None]:
    try:
        yield
    except BackEndError as error:
        raise LabError(f"the software guest: {error}") from error
