# SPDX-License-Identifier: Apache-2.0
"""A guest at native speed that live-migrates: its namespace and tap stay, its device moves.

As with a machine, the driver stands still while the device moves, and the memory is another one
afterwards. What the stack sends meanwhile waits in the tap.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

from ovs_vhost_plugin.guest.compiled.guest import OFFLOADS, CompiledGuest
from ovs_vhost_plugin.guest.compiled.tap import StackTap
from ovs_vhost_plugin.guest.frontend.connection import BackEndError, FrontEndConnection, listen
from ovs_vhost_plugin.guest.frontend.frontend import FrontEnd
from ovs_vhost_plugin.guest.migrate import Migration
from ovs_vhost_plugin.guest.soft import FEATURES, Config
from ovs_vhost_plugin.lab.guests.movable import Move
from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.process import LabError
from ovs_vhost_plugin.lab.setup import Setup
from ovs_vhost_plugin.vhost.spec import Feature

DEVICE = "eth0"
_SIZE = 1024
_COPIES = 3
"""Of the pages written meanwhile: at high rates there are always as many again."""


class CompiledMovable(Setup):
    """The guest in `namespace`; it is told from outside that it has moved, by SEND_RARP."""

    def __init__(
        self, mac: str, address: str, *, packed: bool = False, queue_pairs: int = 1
    ) -> None:
        super().__init__()
        self.mac = mac
        self.address = address
        self.namespace = Namespace("vm")
        self._config = Config(
            queue_pairs=queue_pairs,
            mac=bytes.fromhex(mac.replace(":", "")),
            address=IPv4Address(address),
            size=_SIZE,
            features=FEATURES | OFFLOADS | (Feature.RING_PACKED.mask if packed else 0),
        )
        self._guest: CompiledGuest | None = None
        self._destination: FrontEnd | None = None

    def _set_up(self) -> None:
        self._closing.enter_context(self.namespace)
        with self.namespace.entered():
            queues = self._config.queue_pairs
            self._tap = StackTap(DEVICE, self._config.mac, queues=queues)
        self._closing.callback(self._tap.close)
        self.namespace.address(DEVICE, f"{self.address}/24")

    def boot(self, socket: Path) -> None:
        """Listen for the back-end at `socket`, and run on it."""
        self._guest = CompiledGuest(socket, self._config, self._tap)
        self._closing.callback(self._guest.close)
        self._guest.begin(_accept(socket))

    def prepare(self, socket: Path) -> None:
        """Listen for the next back-end at `socket`."""
        self._destination = _accept(socket)

    def migrate(self, copied: Callable[[], object] = lambda: None) -> Move:
        """Live-migrate to it as QEMU would. All memory is compared, within the downtime.

        `copied` is called before the guest stops: its memory is so small that it is copied sooner
        than a busy host hears of the migration, where a machine's takes a second.
        """
        guest, destination = self.running, self._destination
        if destination is None:
            raise LabError("there is no destination")
        move = Migration(guest, destination)
        started = time.monotonic()
        move.begin()
        for _ in range(_COPIES):
            move.copy_dirty()
        copied()
        stopped = time.monotonic()
        move.switch()
        resumed = time.monotonic()
        move.announce(time.sleep)
        move.release_source()
        guest.check()
        downtime, total = (1e3 * (resumed - since) for since in (stopped, started))
        return Move(started, stopped, resumed, resumed, downtime, total)

    def overruns(self) -> int:
        """The number of frames that the guest's stack sent into its tap when that was full."""
        return self.namespace.dropped(DEVICE)

    @property
    def running(self) -> CompiledGuest:
        """The guest, which has been booted."""
        if self._guest is None:
            raise LabError("the guest is not running")
        return self._guest


def _accept(socket: Path) -> FrontEnd:
    """Accept a session with the back-end of a port, then stop listening."""
    socket.unlink(missing_ok=True)  # of an earlier stay
    try:
        with listen(socket) as listener:
            frontend = FrontEnd(FrontEndConnection.accept(listener))
        frontend.initialise()
    except BackEndError as error:
        raise LabError(f"the compiled guest: {error}") from error
    return frontend
