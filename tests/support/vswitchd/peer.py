# SPDX-License-Identifier: Apache-2.0
"""A unix socket whose other end the test plays itself, and a poller that only takes notes."""

import select
import socket
from pathlib import Path


class Peer:
    """The listening side of a connection that the code under test makes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection: socket.socket | None = None
        self.listen()

    def listen(self) -> None:
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(self.path))
        self.listener.listen(4)
        self.listener.settimeout(60)

    def accept(self) -> None:
        self.hang_up()
        self.connection, _ = self.listener.accept()
        self.connection.settimeout(60)

    def receive(self) -> bytes:
        assert self.connection is not None
        return self.connection.recv(1 << 20)

    def send(self, data: bytes) -> None:
        assert self.connection is not None
        self.connection.sendall(data)

    def hang_up(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def close(self) -> None:
        self.hang_up()
        self.listener.close()


class Notes:
    """A poller that remembers what it was asked for."""

    def __init__(self) -> None:
        self.events: list[int] = []
        self.times: list[float] = []

    def fd_wait(self, fd: int, events: int) -> None:
        select.select([], [fd], [], 0)  # raises for what is no open fd
        self.events.append(events)

    def timer_wait_until(self, msec: float) -> None:
        self.times.append(msec)
