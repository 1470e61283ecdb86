# SPDX-License-Identifier: Apache-2.0
"""One who captures a port: a connection, and the worker that records for it.

The capture ends with the connection, however that ends. The file of frames is sealed, so that a
worker cannot cut it short under the reader, and a new one for each worker: the worker before may
still have the old one open.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
from collections.abc import Iterable
from typing import Any

from ovs_vhost_plugin.daemon.captures.marks import PortMarks
from ovs_vhost_plugin.daemon.workers.link import WorkerLink
from ovs_vhost_plugin.ipc.captures import (
    FROM_DAEMON,
    FROM_READER,
    AskCapture,
    CaptureEnded,
    CaptureErrorName,
    CaptureMark,
    FromDaemon,
    GivenRings,
)
from ovs_vhost_plugin.ipc.channel import Channel, ChannelClosed
from ovs_vhost_plugin.ipc.codec import MessageError
from ovs_vhost_plugin.ipc.commands import CaptureFrames, EndCapture
from ovs_vhost_plugin.jit.capture_ring import PART

_UCRED = struct.Struct("=3i")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class CaptureReader:
    """The connection `sock`.

    pid    of the process that connected
    asked  its capture; None: it has not asked yet
    marks  what it is told of the port; None likewise
    gone   whether it is to be closed
    """

    def __init__(self, sock: socket.socket, now: float) -> None:
        ucred = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        self.pid, self.uid, _ = _UCRED.unpack(ucred)
        self.since = now
        self.asked: AskCapture | None = None
        self.marks: PortMarks | None = None
        self.gone = False
        self._channel = Channel(sock, max_fds=0)
        self._worker: WorkerLink | None = None  # that records for it

    def receive(self) -> AskCapture | None:
        """Its question, if it has just asked; it may ask once."""
        try:
            self._channel.flush()
            for said, _ in self._channel.receive():
                if self.asked is not None:
                    raise MessageError("it has asked")
                self.asked = FROM_READER.decode(said)
                return self.asked
        except (ChannelClosed, MessageError):
            self.gone = True
        return None

    def follow(self, worker: WorkerLink | None, now: float) -> None:
        """Tell the port's present worker to record, if it does not so far."""
        if worker is self._worker or worker is None or self.asked is None:
            return
        if not worker.knows(CaptureFrames):
            words = "the port's process is of a release before: ovs-vhost upgrade replaces it"
            self.end(CaptureErrorName.OUTDATED, words)
            return
        assert worker.spec is not None
        queues = worker.spec.queues
        try:
            fd = _make_file(PART * queues)
        except OSError as error:
            self.end(CaptureErrorName.NO_MEMORY, error.strerror or "")
            return
        try:
            # The reader first: nobody records what nobody reads.
            given = self._send_now(GivenRings(queues), fd)
            wanted = CaptureFrames(self.asked.directions, self.asked.snap)
            if given and worker.send(wanted, now, (fd,)):
                self._worker = worker
        finally:
            os.close(fd)

    def tell(self, marks: Iterable[CaptureMark]) -> None:
        """Tell it of what has happened. It is left if it does not read."""
        for mark in marks:
            self._send(mark)

    def end(self, name: CaptureErrorName, words: str) -> None:
        """Tell it why there is no more, and leave it."""
        self._send(CaptureEnded(f"{name}: {words}"))
        self.gone = True

    def close(self, present: WorkerLink | None, now: float) -> None:
        """Leave it; `present`, the port's worker, records no more if it does so for this one."""
        if present is not None and present is self._worker:
            present.send(EndCapture(), now)
        self._channel.close()

    def wait(self, poller: Any) -> None:
        """Register what `receive` waits for."""
        wants = select.POLLOUT if self._channel.wants_write else 0
        poller.fd_wait(self._channel.fileno(), select.POLLIN | wants)

    def _send(self, message: FromDaemon) -> None:
        try:
            self._channel.send(FROM_DAEMON.encode(message))
        except ChannelClosed:
            self.gone = True

    def _send_now(self, message: FromDaemon, fd: int) -> bool:
        try:
            sent = self._channel.send_now(FROM_DAEMON.encode(message), (fd,))
        except ChannelClosed:
            sent = False
        self.gone = self.gone or not sent
        return sent


def _make_file(size: int) -> int:
    fd = os.memfd_create("ovs-vhost-capture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd
