# SPDX-License-Identifier: Apache-2.0
"""Guests and reference back-ends, connected."""

import socket
from pathlib import Path

from support.guest.reference_backend import ReferenceBackEnd
from support.guest.reference_rings import Behaviour

from ovs_vhost_plugin.guest.soft import Config, SoftGuest


class Lab:
    """Guests and the back-ends they are connected to, taken down at the end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._guests: list[SoftGuest] = []
        self._back_ends: list[ReferenceBackEnd] = []

    def back_end(self, guest: SoftGuest, behaviour: Behaviour | None = None) -> ReferenceBackEnd:
        """A back-end that connects to a guest in server mode."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(guest.path))
        return self.serve(sock, behaviour)

    def serve(self, sock: socket.socket, behaviour: Behaviour | None = None) -> ReferenceBackEnd:
        back_end = ReferenceBackEnd(sock, behaviour or Behaviour())
        self._back_ends.append(back_end)
        return back_end

    def guest(self, config: Config) -> SoftGuest:
        guest = SoftGuest(self._directory / f"{len(self._guests)}.sock", config, server=True)
        self._guests.append(guest)
        return guest

    def pair(
        self, config: Config, behaviour: Behaviour | None = None
    ) -> tuple[SoftGuest, ReferenceBackEnd]:
        """A guest that runs on a back-end."""
        guest = self.guest(config)
        back_end = self.back_end(guest, behaviour)
        guest.start()
        return guest, back_end

    def close(self) -> None:
        for guest in self._guests:
            guest.close()
        for back_end in self._back_ends:
            back_end.stop()
