# SPDX-License-Identifier: Apache-2.0
"""The captures of all ports: a socket in the run directory, for root alone.

Who connects may capture one port. Another who asks for the same port is refused: a worker records
once, and what a capture costs its guest does not grow with those who look.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ovs.fatal_signal

from ovs_vhost_plugin.announce.result import Result
from ovs_vhost_plugin.common import process
from ovs_vhost_plugin.common.dirs import PROGRAM
from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.common.text import escaped
from ovs_vhost_plugin.daemon.captures.marks import PortMarks
from ovs_vhost_plugin.daemon.captures.reader import CaptureReader
from ovs_vhost_plugin.daemon.events import Event
from ovs_vhost_plugin.daemon.loop import Loop
from ovs_vhost_plugin.daemon.ovsdb.database import Standing
from ovs_vhost_plugin.daemon.reconcile import Phase
from ovs_vhost_plugin.daemon.workers.link import WorkerLink
from ovs_vhost_plugin.ipc.captures import AskCapture, CaptureErrorName, CaptureMark

vlog = Vlog("vhost_capture")

MOST = 16
"""Captures at a time."""
_MOST_READERS = 2 * MOST  # also those who have not asked
_BACKLOG = 4
_ROOT = 0


class Captures:
    """Those who capture, and the socket by which they come."""

    def __init__(self, loop: Loop, rundir: Path) -> None:
        """Listen. Raises OSError."""
        self.path = rundir / f"{PROGRAM}.{os.getpid()}.capture"
        self._loop = loop
        self._readers: list[CaptureReader] = []
        self._listener = _listen(self.path)
        loop.announcing.on_result = self._announced

    def shown(self, now: float) -> dict[str, Any]:
        """The socket, and the captures under way."""
        return {
            "socket": os.fspath(self.path),
            "captures": [
                {"port": reader.asked.port, "pid": reader.pid, "seconds": now - reader.since}
                for reader in self._readers
                if reader.asked is not None
            ],
        }

    def take(self, events: Iterable[Event], now: float) -> None:
        """Tell of the workers' news."""
        for reader in self._readers:
            if reader.marks is not None:
                reader.tell(reader.marks.of_events(events, now))

    def run(self, now: float) -> None:
        """Take who has come, follow the ports, and leave who has gone."""
        self._accept(now)
        for reader in self._readers:
            if not reader.gone and (asked := reader.receive()) is not None:
                self._begin(reader, asked, now)
            if not reader.gone and reader.marks is not None:
                reader.tell(reader.marks.of_moves(self._loop.moves.history))
                self._follow(reader, now)
        for reader in [reader for reader in self._readers if reader.gone]:
            self._readers.remove(reader)
            self._close(reader, now)

    def wait(self, poller: Any) -> None:
        """Register what `run` waits for."""
        if len(self._readers) < _MOST_READERS:
            poller.fd_wait(self._listener.fileno(), select.POLLIN)
        for reader in self._readers:
            reader.wait(poller)

    def close(self, now: float) -> None:
        """End all captures, and listen no more."""
        for reader in self._readers:
            self._close(reader, now)
        self._readers.clear()
        self._listener.close()
        self.path.unlink(missing_ok=True)
        ovs.fatal_signal.remove_file_to_unlink(os.fspath(self.path))

    def _accept(self, now: float) -> None:
        while len(self._readers) < _MOST_READERS:
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if process.fds_exhausted(error):
                    raise
                return
            reader = CaptureReader(sock, now)
            if reader.uid != _ROOT:
                vlog.warn(f"user {reader.uid} (pid {reader.pid}) may not capture")
                reader.close(None, now)
                continue
            self._readers.append(reader)

    def _begin(self, reader: CaptureReader, asked: AskCapture, now: float) -> None:
        name = asked.port
        others = [r for r in self._readers if r is not reader and r.marks is not None]
        rival = next((r for r in others if r.asked and r.asked.port == name), None)
        if self._loop.database.standing is Standing.CONTENDED:
            reader.end(CaptureErrorName.NOT_SERVING, "another daemon serves the ports")
        elif name not in self._loop.desired:
            words = "no such vhost-user port; ovs-vhost show lists them"
            reader.end(CaptureErrorName.NO_PORT, f"{escaped(name)}: {words}")
        elif len(others) >= MOST:
            reader.end(CaptureErrorName.TOO_MANY, f"there are {MOST} already")
        elif rival is not None:
            reader.end(CaptureErrorName.BUSY, f"process {rival.pid} captures {escaped(name)}")
        else:
            vlog.info(f"{name}: captured by process {reader.pid}")
            link = self._loop.ports.link(name)
            status = "" if link is None or link.state is None else link.state.status
            reader.marks = PortMarks(name, status, self._loop.moves.history)
            reader.tell([CaptureMark("status", status or "starting", now)])

    def _follow(self, reader: CaptureReader, now: float) -> None:
        assert reader.asked is not None
        if self._loop.database.standing is Standing.CONTENDED:
            reader.end(CaptureErrorName.NOT_SERVING, "another daemon serves the ports")
        elif reader.asked.port not in self._loop.desired:
            reader.end(CaptureErrorName.NO_PORT, "the port is no more")
        else:
            reader.follow(self._worker(reader.asked.port), now)

    def _worker(self, name: str) -> WorkerLink | None:
        """The worker that serves a port now."""
        link = self._loop.ports.link(name)
        serves = link is not None and link.phase is Phase.RUNNING and not link.told_to_quit
        return link if serves else None

    def _announced(self, result: Result) -> None:
        for reader in self._readers:
            if reader.marks is not None:
                reader.tell(reader.marks.of_result(result))

    def _close(self, reader: CaptureReader, now: float) -> None:
        present = None
        if reader.asked is not None and reader.marks is not None:
            present = self._loop.ports.link(reader.asked.port)
            vlog.info(f"{reader.asked.port}: captured no more")
        reader.close(present, now)


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)  # of a process that had this number before
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        made.bind(os.fspath(path))
        path.chmod(0o600)  # nobody can connect before it listens
        ovs.fatal_signal.add_file_to_unlink(os.fspath(path))
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made
