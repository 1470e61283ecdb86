# SPDX-License-Identifier: Apache-2.0
"""Private hosts to attack: with the product's workers, or with workers that were taken over."""

import contextlib
import json
import socket
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support.control.control_host import ControlHost

from ovs_vhost_plugin.lab.hosts.host import Host
from ovs_vhost_plugin.lab.process import PATIENCE, LabError, wait_until


class EvilHost(ControlHost):
    """A host all of whose workers have been taken over; the rest is real."""

    program = Path(__file__).with_name("daemon_with_evil_worker.py")

    @contextlib.contextmanager
    def evil_port(self, name: str, *settings: str) -> Iterator["Evil"]:
        """A port with a worker that does what it is told."""
        path = self.add_server_port(name, *settings)
        self.wait_status(name, "listening")
        with contextlib.closing(Evil(path, name, self)) as evil:
            yield evil


class Evil:
    """The hand in a worker that was taken over."""

    def __init__(self, path: Path, name: str, host: Host) -> None:
        self.name, self.host = name, host
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(PATIENCE)
        self._sock.connect(str(path))
        self._said = b""

    @property
    def pid(self) -> int:
        """The worker's pid, as the host's own namespace counts."""
        return self.host.worker_pid(self.name)

    def send(self, source: str) -> None:
        """Have it run something that may not answer."""
        line = json.dumps({"source": textwrap.dedent(source)}).encode() + b"\n"
        self._sock.sendall(line)

    def run(self, source: str) -> dict[str, Any]:
        """Have it run something: {"result"}, or {"error", "errno"}; {} when that was its end."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send(source)
            return self._answer()
        return {}

    def give(self, fd: int) -> None:
        """Have it take an fd, which later sources have as `gift`."""
        self.give_by(lambda sock: socket.send_fds(sock, [b"x"], [fd]))

    def give_by(self, send: Callable[[socket.socket], object]) -> None:
        """The same of an fd that `send` sends to it, with a byte."""
        self.send("me.names['gift'] = socket.recv_fds(me.master, 1, 1)[1][0]")
        # It sleeps in recvmsg(2), and not in the poll(2) of its loop, which would take the byte.
        wait_until(lambda: "unix_stream" in self._sleeps_in(), "the worker to wait for the fd")
        send(self._sock)
        if "error" in (answer := self._answer()):
            raise LabError(f"the fd did not arrive: {answer}")

    def _sleeps_in(self) -> str:
        return Path(f"/proc/{self.pid}/wchan").read_text()

    def _answer(self) -> dict[str, Any]:
        while b"\n" not in self._said:
            said = self._sock.recv(1 << 20)
            if not said:
                return {}
            self._said += said
        line, _, self._said = self._said.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Let it go."""
        self._sock.close()
