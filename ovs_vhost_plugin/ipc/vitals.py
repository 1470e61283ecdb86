# SPDX-License-Identifier: Apache-2.0
"""A worker's pulse and last words, in a memory file that the daemon makes and can always read.

The pulse distinguishes a worker that hangs from one that sleeps, and wakes neither. It is the time
since which the worker has been busy, or 0 while the worker waits for something to do. An alarm,
shared by both processes, goes off when the worker has been busy for long; a worker that sleeps has
turned it off. The rest of the file is the worker's standard error, empty unless the worker crashed.
The file cannot grow, so a worker that was taken over can fill the file and nothing else. The file
has no name, so nobody else finds it.
"""

import contextlib
import fcntl
import os
from struct import Struct

from ovs_vhost_plugin.common import process

SIZE = 64 * 1024
"""Bytes of the file; most of them never take memory."""

ALARM = 2
"""Seconds of a worker's work until its alarm goes off."""

_PULSE = Struct("=Q")
_WORDS_AT = 4096
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Vitals:
    """The daemon's end. The worker has copies of `fd` and `alarm`, which stay this object's."""

    def __init__(self) -> None:
        """Make the file and the alarm. Raises OSError."""
        with contextlib.ExitStack() as stack:
            self.fd = os.memfd_create("vitals", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            stack.callback(os.close, self.fd)
            os.ftruncate(self.fd, SIZE)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
            self.alarm = process.make_timer()
            stack.pop_all()

    def rewind(self, *, busy: bool) -> None:
        """Clear the alarm that went off, and set it again if the worker is still busy."""
        with contextlib.suppress(BlockingIOError):  # the worker has set it anew
            os.read(self.alarm, 8)
        if busy:
            process.set_timer(self.alarm, ALARM)

    @property
    def busy_since(self) -> int:
        """The worker's pulse: CLOCK_MONOTONIC nanoseconds, 0 while it sleeps."""
        (stamp,) = _PULSE.unpack(os.pread(self.fd, _PULSE.size, 0))
        return int(stamp)

    @property
    def last_words(self) -> str:
        """The end of the worker's standard error."""
        said = os.pread(self.fd, SIZE - _WORDS_AT, _WORDS_AT).rstrip(b"\0")
        return said[-_WORDS_AT:].decode(errors="replace")

    def close(self) -> None:
        """Close the file and the alarm."""
        os.close(self.fd)
        os.close(self.alarm)


def adopt(fd: int) -> None:
    """Make `fd`, the file of a Vitals, this process's standard error."""
    if fd != 2:
        os.dup2(fd, 2)
    os.lseek(2, _WORDS_AT, os.SEEK_SET)


class Pulse:
    """The worker's end of the vitals, whose file is its standard error."""

    def __init__(self) -> None:
        self._alarm = -1

    def adopt(self, fd: int, alarm: int) -> None:
        """Use the file and the alarm of another daemon, and close those of the previous daemon."""
        adopt(fd)
        os.close(fd)
        if self._alarm >= 0:
            os.close(self._alarm)
        self._alarm = alarm

    def beat(self, busy_since: int) -> None:
        """Set the time since which this process is busy, in nanoseconds; 0: it sleeps now."""
        os.pwrite(2, _PULSE.pack(busy_since), 0)
        if self._alarm >= 0:
            process.set_timer(self._alarm, ALARM if busy_since else 0)
