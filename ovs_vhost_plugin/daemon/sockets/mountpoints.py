# SPDX-License-Identifier: Apache-2.0
"""Mount points that come and go, of which inotify(7) says nothing.

Source: proc_pid_mountinfo(5). A change shows as an exceptional condition of the file, once for each
open file: so one is for the loop to sleep on, and another one to ask.
"""

import os
import re
import select
from collections import Counter
from typing import Any

_LIST = "/proc/self/mountinfo"
_ESCAPED = re.compile(r"\\([0-7]{3})")  # space, tab, newline and backslash of a name


class MountPoints:
    """The mount points that this process sees."""

    def __init__(self) -> None:
        self._slept_on = os.open(_LIST, os.O_RDONLY | os.O_CLOEXEC)
        self._list = os.open(_LIST, os.O_RDONLY | os.O_CLOEXEC)
        self._changes = select.poll()
        self._changes.register(self._list, select.POLLPRI)
        self._known = self._read()

    def changed(self) -> set[str]:
        """The paths on which something was mounted or unmounted since the last call."""
        if not self._changes.poll(0):
            return set()
        before, self._known = self._known, self._read()
        return {path for _, path in (before - self._known) + (self._known - before)}

    def wait(self, poller: Any) -> None:
        """Register the fd that `changed` has to be called for."""
        poller.fd_wait(self._slept_on, select.POLLPRI)

    def close(self) -> None:
        """Close the lists."""
        os.close(self._slept_on)
        os.close(self._list)

    def _read(self) -> Counter[tuple[str, str]]:
        """Number and path of each mount; a number may be used again."""
        self._changes.poll(0)  # changes up to here are in the list that is read now
        os.lseek(self._list, 0, os.SEEK_SET)
        text = b"".join(iter(lambda: os.read(self._list, 1 << 16), b""))
        return Counter(_entry(line) for line in os.fsdecode(text).splitlines())


def _entry(line: str) -> tuple[str, str]:
    """Number and path: "36 35 98:0 / /mnt rw,noatime shared:1 - ext3 /dev/root rw"."""
    number, _, _, _, path, *_ = line.split(" ")
    return number, _ESCAPED.sub(lambda code: chr(int(code[1], 8)), path)
