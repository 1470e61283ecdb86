# SPDX-License-Identifier: Apache-2.0
"""Where a capture is written: a file, or a pipe whose reader may be slow, or may have gone."""

from __future__ import annotations

import contextlib
import errno
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
    """Open a pipe or a device, which is its maker's; make anything else anew.

    A file that was there may be another user's, have other names, or be open somewhere.
    """
    flags = os.O_WRONLY | os.O_CLOEXEC
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, flags)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        if path.is_symlink():  # /dev/stdout, or a user's in /tmp
            raise OSError(errno.ELOOP, "this is a symbolic link to a file; name the file itself")
        path.unlink()
    # Who has been faster with a file or a link of this name gets nothing: EEXIST.
    return os.open(path, flags | os.O_CREAT | os.O_EXCL, _MODE)
