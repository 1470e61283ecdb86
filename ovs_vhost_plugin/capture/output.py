# SPDX-License-Identifier: Apache-2.0
"""Where a capture is written: a file, or a pipe whose reader may be slow, or may have gone."""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Callable
from pathlib import Path

STANDARD = "-"
"""The name of standard output."""

_FD = 1
_PATIENCE = 0.1  # seconds between looks at whether the capture is to end
_MODE = 0o600  # guests' traffic is nobody else's


class CaptureOutput:
    """The file `name`, made anew, or standard output. Raises OSError.

    over  says that the capture is to end: a pipe that takes nothing is not waited for then
    """

    def __init__(self, name: str, over: Callable[[], bool]) -> None:
        self._over = over
        self._is_standard = name == STANDARD
        self._fd = _FD if self._is_standard else _create(Path(name))
        # poll(2): a pipe that is ready takes so much without waiting (pipe(7), PIPE_BUF)
        self._at_once = select.PIPE_BUF

    def write(self, data: bytes) -> None:
        """Write all of it, unless the capture is over first. Raises OSError."""
        view = memoryview(data)
        while view:
            _, ready, _ = select.select([], [self._fd], [], _PATIENCE)
            if ready:
                part = view if not self._is_standard else view[: self._at_once]
                view = view[os.write(self._fd, part) :]
            elif self._over():
                return

    def close(self) -> None:
        """Close a file that was made here."""
        if not self._is_standard:
            os.close(self._fd)


def _create(path: Path) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
    # A file that was there keeps its mode by open(2). A pipe or a device is its maker's.
    if stat.S_ISREG(os.fstat(fd).st_mode):
        os.fchmod(fd, _MODE)
    return fd
