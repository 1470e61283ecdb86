# SPDX-License-Identifier: Apache-2.0
"""A worker's pulse and last words, in memory that the daemon gives it and can always read.

The pulse tells a worker that hangs from one that sleeps, and wakes neither: it is the time since
which the worker has been busy, or 0 while it waits for something to do. The rest is its standard
error, empty unless it crashed. The file cannot grow, so a worker that was taken over can fill it
and nothing else; it has no name, so nobody else finds it.
"""

import fcntl
import os
from struct import Struct

SIZE = 64 * 1024
"""Bytes of the file, most of which never take memory."""

_PULSE = Struct("=Q")
_WORDS_AT = 4096
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Vitals:
    """The daemon's end. `fd` is also the worker's, and stays this object's."""

    def __init__(self) -> None:
        """Make the file. Raises OSError."""
        self.fd = os.memfd_create("vitals", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, SIZE)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        except OSError:
            self.close()
            raise

    @property
    def busy_since(self) -> int:
        """What the worker last wrote: CLOCK_MONOTONIC nanoseconds, 0 while it sleeps."""
        (stamp,) = _PULSE.unpack(os.pread(self.fd, _PULSE.size, 0))
        return int(stamp)

    @property
    def last_words(self) -> str:
        """The end of what it wrote to its standard error."""
        said = os.pread(self.fd, SIZE - _WORDS_AT, _WORDS_AT).rstrip(b"\0")
        return said[-_WORDS_AT:].decode(errors="replace")

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)


def adopt(fd: int) -> None:
    """Have `fd`, which is a Vitals', be this process's standard error."""
    if fd != 2:
        os.dup2(fd, 2)
    os.lseek(2, _WORDS_AT, os.SEEK_SET)


def beat(busy_since: int) -> None:
    """Say since when this process, which has adopted one, is busy; 0: it sleeps now."""
    os.pwrite(2, _PULSE.pack(busy_since), 0)
