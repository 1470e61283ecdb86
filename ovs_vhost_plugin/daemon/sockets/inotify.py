# SPDX-License-Identifier: Apache-2.0
"""One inotify(7) instance, through libc.

The libraries for it are not in Debian (inotify_simple), or nobody keeps them up (pyinotify, which
needs a module that Python 3.12 has dropped; inotify, whose reader never ends).
Source: inotify(7), linux/inotify.h.
"""

import ctypes
import fcntl
import os
import struct
import termios
from dataclasses import dataclass

from ovs_vhost_plugin.common import process

ATTRIB, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x4, 0x40, 0x80, 0x100, 0x200
"""Changes of a name in a directory."""
Q_OVERFLOW, IGNORED = 0x4000, 0x8000
"""Events were lost; the watch is over. Both come unasked."""
ONLYDIR = 0x0100_0000

_EVENT = struct.Struct("=iIII")  # watch, mask, cookie, bytes of the name that follows


@dataclass(frozen=True, slots=True)
class InotifyEvent:
    """Something that happened to `name` in the directory of `watch`; -1 for Q_OVERFLOW."""

    watch: int
    mask: int
    name: str


class Inotify:
    """An instance that does not block."""

    def __init__(self) -> None:
        """Raises OSError EMFILE where the user has fs.inotify.max_user_instances of them."""
        self._fd = process.call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        """The fd, which is readable when there are events."""
        return self._fd

    def add_watch(self, path: str, mask: int) -> int:
        """Watch a path for the events in `mask`; the same file has the same watch. OSError."""
        name = ctypes.c_char_p(os.fsencode(path))
        return process.call("inotify_add_watch", self._fd, name, ctypes.c_uint32(mask))

    def rm_watch(self, watch: int) -> None:
        """End a watch; OSError EINVAL where the kernel has ended it."""
        process.call("inotify_rm_watch", self._fd, watch)

    def read(self) -> list[InotifyEvent]:
        """The events that there are now: whoever makes more meanwhile does not keep the reader."""
        waiting = struct.unpack("=i", fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)))[0]
        return _parse(os.read(self._fd, waiting)) if waiting else []

    def close(self) -> None:
        """End all watches."""
        os.close(self._fd)


def _parse(data: bytes) -> list[InotifyEvent]:
    """Whole events: the kernel gives no others. A name is padded with NULs."""
    events = []
    at = 0
    while at < len(data):
        watch, mask, _, length = _EVENT.unpack_from(data, at)
        at += _EVENT.size + length
        name = data[at - length : at].rstrip(b"\0")
        events.append(InotifyEvent(watch, mask, os.fsdecode(name)))
    return events
