# SPDX-License-Identifier: Apache-2.0
"""The connection to the daemon: frames, by the memory that it passes on, and marks."""

from __future__ import annotations

import mmap
import os
import select
import socket
import time
from dataclasses import dataclass, field

from ovs_vhost_plugin.capture.ring import CapturedFrame, CaptureRings
from ovs_vhost_plugin.ipc.captures import (
    FROM_DAEMON,
    FROM_READER,
    AskCapture,
    CaptureEnded,
    CaptureMark,
    FromDaemon,
    GivenRings,
)
from ovs_vhost_plugin.ipc.channel import Channel, ChannelClosed
from ovs_vhost_plugin.jit.capture_ring import PART

_DAEMON_SILENT = "the daemon does not answer"
_DAEMON_GONE = "the daemon has ended, and so has the capture; the port goes on"


@dataclass(slots=True)
class CaptureNews:
    """Frames and marks since the look before."""

    frames: list[CapturedFrame] = field(default_factory=list)
    marks: list[CaptureMark] = field(default_factory=list)


class CaptureSource:
    """A capture of a port. Raises OSError if the daemon does not take the connection.

    ended  why nothing more comes; "": something may
    """

    def __init__(self, path: str, asked: AskCapture) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            raise
        self.ended = ""
        self._channel = Channel(sock, max_fds=1)
        self._rings: CaptureRings | None = None
        self._lost_before = 0  # in rings of workers before
        self._said: list[tuple[FromDaemon, int]] = []  # and not dealt with yet
        try:
            self._channel.send(FROM_READER.encode(asked))
        except ChannelClosed:
            self.ended = _DAEMON_GONE

    def fileno(self) -> int:
        """The connection, on which marks come; frames make no noise."""
        return self._channel.fileno()

    @property
    def lost(self) -> int:
        """Frames that found no room."""
        return self._lost_before + (0 if self._rings is None else self._rings.lost)

    def await_answer(self, seconds: float) -> None:
        """Wait until the daemon says anything; `ended` if it refuses, or takes too long."""
        deadline = time.monotonic() + seconds
        while not self._said and not self.ended:
            if (left := deadline - time.monotonic()) <= 0:
                self.ended = _DAEMON_SILENT
                return
            select.select([self._channel], [], [], left)
            self._receive()
        for message, _ in self._said:
            if isinstance(message, CaptureEnded):
                self.ended = message.why

    def look(self) -> CaptureNews:
        """Take all that is there. Raises RingBrokenError, or OSError if memory is short."""
        found = CaptureNews()
        self._receive()
        said, self._said = self._said, []
        for message, fd in said:
            match message:
                case GivenRings(queues):
                    found.frames += self._take()
                    self._change(queues, fd)
                case CaptureMark():
                    found.marks.append(message)
                case CaptureEnded(why):
                    self.ended = self.ended or why
        found.frames += self._take()
        return found

    def close(self) -> None:
        """End the capture."""
        self._channel.close()
        if self._rings is not None:
            self._rings.close()

    def _receive(self) -> None:
        """Keep what the daemon says, each message with its fd, or -1."""
        if self.ended:
            return
        try:
            for said, fds in self._channel.receive():
                self._said.append((FROM_DAEMON.decode(said), fds[0] if fds else -1))
        except ChannelClosed:
            self.ended = self.ended or _DAEMON_GONE

    def _take(self) -> list[CapturedFrame]:
        return [] if self._rings is None else self._rings.take()

    def _change(self, queues: int, fd: int) -> None:
        """Read what another worker writes, from now on."""
        if self._rings is not None:
            self._lost_before += self._rings.lost
            self._rings.close()
        try:
            self._rings = CaptureRings(mmap.mmap(fd, PART * queues), queues)
        finally:
            os.close(fd)
