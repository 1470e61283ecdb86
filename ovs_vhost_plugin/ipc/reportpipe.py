# SPDX-License-Identifier: Apache-2.0
"""The pipe from a worker to the daemon: JSON objects, a line each.

A pipe carries bytes and nothing else. By a socket a worker could send the daemon an fd whose
close(2) takes as long as the worker likes (a TCP socket that lingers), unread or not. The daemon
makes the pipe and sends the worker the write end, so each daemon has a pipe of its own.
"""

import contextlib
import json
import os
from collections import deque
from typing import Any

from ovs_vhost_plugin.ipc.channel import (
    MAX_BACKLOG,
    MAX_PACKET,
    ChannelBroken,
    ChannelClosed,
    decode_object,
)

_READ_AT_ONCE = 64 * 1024  # a pipe's capacity (pipe(7))


class ReportReader:
    """The daemon's end, which never blocks and keeps at most one incomplete report."""

    def __init__(self) -> None:
        """Make a pipe. `writer` is its other end until `give_away`. Raises OSError."""
        self._fd, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._part = b""

    def fileno(self) -> int:
        """The fd, for a poll loop."""
        return self._fd

    def give_away(self) -> None:
        """Close our copy of the worker's end: only the worker has it, and closes it, then."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def receive(self, most: int) -> tuple[list[tuple[dict[str, Any], int]], ChannelClosed | None]:
        """Read at most `most` bytes; return the whole reports, each with its size, and an end.

        Bytes after an end are meaningless.
        """
        try:
            said = os.read(self._fd, min(most, _READ_AT_ONCE))
        except BlockingIOError:
            return [], None
        if not said:
            return [], ChannelClosed("closed by the peer")
        *lines, self._part = (self._part + said).split(b"\n")
        reports = []
        try:
            for line in lines:
                _require_short(line)
                reports.append((decode_object(line, "a report"), len(line)))
            _require_short(self._part)
        except ChannelBroken as broken:
            self._part = b""
            return reports, broken
        return reports, None

    def close(self) -> None:
        """Close the ends that are still ours."""
        self.give_away()
        os.close(self._fd)


class ReportWriter:
    """A worker's end `fd`, taken over; keeps reports that do not fit, up to a bound."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._unsent: deque[bytes] = deque()

    def fileno(self) -> int:
        """The fd, for a poll loop."""
        return self._fd

    @property
    def wants_write(self) -> bool:
        """Whether reports wait for the daemon to read: poll for writing, then `flush`."""
        return bool(self._unsent)

    def send(self, report: dict[str, Any]) -> None:
        """Send one report, or keep it. Raises ChannelClosed."""
        line = json.dumps(report, separators=(",", ":")).encode() + b"\n"
        if len(line) > MAX_PACKET:
            raise ValueError(f"report of {len(line)} bytes")
        if len(self._unsent) >= MAX_BACKLOG:
            raise ChannelBroken("it does not read")
        self._unsent.append(line)
        self.flush()

    def flush(self) -> None:
        """Send the reports that wait, as far as the pipe takes them. Raises ChannelClosed."""
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                try:
                    sent = os.write(self._fd, self._unsent[0])
                except BrokenPipeError as error:
                    raise ChannelClosed("the daemon has gone") from error
                line = self._unsent.popleft()
                if sent < len(line):
                    self._unsent.appendleft(line[sent:])

    def close(self) -> None:
        """Close the worker's end."""
        os.close(self._fd)


def _require_short(line: bytes) -> None:
    if len(line) > MAX_PACKET:
        raise ChannelBroken(f"a report of more than {MAX_PACKET} bytes")
