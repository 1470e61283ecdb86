# SPDX-License-Identifier: Apache-2.0
"""The transfer of a state through the front-end's pipe, which never blocks this process.

The front-end has the pipe too: it can clear O_NONBLOCK at any time, and fill or empty the pipe
between a poll and a read. splice(2) with SPLICE_F_NONBLOCK never waits for a pipe, whatever the
pipe's flags. So splice moves the bytes between the pipe and a memory file of our own.
"""

from __future__ import annotations

import fcntl
import os
import selectors

from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.fds.closing import close_fds


class Transfer:
    """One state, saved into the pipe `fd` or (`data` None) loaded from it. Takes the fd."""

    def __init__(
        self, fd: int, data: bytes | None, most: int, selector: selectors.BaseSelector
    ) -> None:
        """`most`: the most bytes to load. Raises PeerError for the wrong end of a pipe."""
        self.loads = data is None
        self.finished = False
        self._fd = fd
        self._most = most
        self._moved = 0
        self._size = 0 if data is None else len(data)
        self._selector = selector
        self._error: PeerError | None = None
        try:
            _require_mode(fd, os.O_RDONLY if self.loads else os.O_WRONLY)
            event = selectors.EVENT_READ if self.loads else selectors.EVENT_WRITE
            selector.register(fd, event, lambda _now: self.move())
        except PeerError:
            close_fds([fd])
            raise
        self._file = os.memfd_create("device-state", os.MFD_CLOEXEC)
        os.write(self._file, data or b"")
        os.lseek(self._file, 0, os.SEEK_SET)
        self.move()

    def move(self) -> None:
        """Move the bytes that can be moved now; close the pipe at the end, which tells the peer."""
        while self._fd >= 0:
            try:
                if self._step():
                    self.finished = True
                    self._hang_up()
            except BlockingIOError:
                return
            except PeerError as error:
                self._fail(error)
            except OSError as error:
                # The reader has gone, or the fd is of a kind that splice does not take.
                name = PeerErrorName.DEVICE_STATE_NOT_A_PIPE
                if isinstance(error, BrokenPipeError):
                    name = PeerErrorName.DEVICE_STATE_NOT_READ
                self._fail(PeerError(name, str(error.strerror)))

    def result(self) -> bytes:
        """The whole state, as CHECK_DEVICE_STATE asks for it. Raises PeerError."""
        self.move()
        if self._error is not None:
            raise self._error
        if not self.finished:
            name = PeerErrorName.DEVICE_STATE_UNFINISHED
            raise PeerError(name, f"{self._moved} bytes, and the pipe is not at its end")
        return os.pread(self._file, self._moved, 0)

    def close(self) -> None:
        """Close pipe and file, whether the transfer is at its end or not."""
        self._hang_up()
        if self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)

    def _step(self) -> bool:
        """Move some bytes; return whether these were the last. Raises BlockingIOError: not now."""
        if self.loads:
            most = self._most + 1 - self._moved
            moved = os.splice(self._fd, self._file, most, flags=os.SPLICE_F_NONBLOCK)
            self._moved += moved
            if self._moved > self._most:
                raise PeerError(PeerErrorName.DEVICE_STATE_TOO_LARGE, f"above {self._most} bytes")
            return not moved
        left = self._size - self._moved
        if left:
            moved = os.splice(self._file, self._fd, left, flags=os.SPLICE_F_NONBLOCK)
            self._moved += moved
        return self._moved == self._size

    def _fail(self, error: PeerError) -> None:
        self._error = PeerError(error.name, error.detail)  # without the traceback's frames
        self._hang_up()

    def _hang_up(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._selector.unregister(fd)
            os.close(fd)


def _require_mode(fd: int, mode: int) -> None:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    if flags not in (mode, os.O_RDWR):
        raise PeerError(PeerErrorName.DEVICE_STATE_NOT_A_PIPE, f"access mode {flags}")
