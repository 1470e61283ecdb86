# SPDX-License-Identifier: Apache-2.0
"""The files of the rings' journals, which tell the next worker of a guest where to resume.

They are in the run directory, which is memory on every distribution. A killed worker's file is
there for the next worker, also if the daemon was killed as well, and gone after a restart of the
machine. The daemon copies such a file and never reads its words. Each worker has a file of its own:
a process that still has the previous file open, such as a worker that its guest took over, cannot
change the new one.
"""

import os
from collections.abc import Collection, Set
from pathlib import Path

from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.ipc.spec import JOURNAL_BYTES

_KEPT = 64
"""Journals kept of guests whose ports are gone: a port that is added again finds its rings."""
_PAGE = 4096


class Journals:
    """Which port uses which guest's journal: that of the front-end's socket of its last worker."""

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self._sockets: dict[str, str] = {}
        self._gone = 0  # ports since the last tidying

    def uses(self, port: str, socket: str) -> None:
        """Note the socket of a port's worker."""
        self._sockets[port] = socket

    def forget(self, port: str, ports: Set[str]) -> None:
        """Forget a port, and remove journals once enough of them are unused; `ports` are left."""
        self._sockets.pop(port, None)
        self._gone += 1
        # Not while an adopted worker's socket is unknown
        if self._gone >= _KEPT and self._sockets.keys() >= ports:
            self._gone = 0
            tidy(self._state, self._sockets.values())

    def clear(self) -> None:
        """Forget all ports."""
        self._sockets.clear()


def renew(path: Path, vrings: int) -> int:
    """Put a copy in place of a journal; return its fd.

    Raises OSError.
    """
    size = vrings * JOURNAL_BYTES
    new = path.parent.with_suffix(".new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)
        if path.exists():
            _copy(path, fd, size)
        new.rename(path)
    except OSError:
        os.close(fd)
        new.unlink(missing_ok=True)
        raise
    return fd


def _copy(path: Path, target: int, size: int) -> None:
    """Copy the pages that are not zero; most are zero and take no memory."""
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for at in range(0, size, _PAGE):
            page = os.pread(source, _PAGE, at)
            if any(page):
                os.pwrite(target, page, at)
    finally:
        os.close(source)


def tidy(state: StateDir, sockets: Collection[str]) -> None:
    """Remove the journals of guests at other sockets than these, except the latest few."""
    used = {state.journal(socket) for socket in sockets}
    gone = [path for path in state.journals.iterdir() if path not in used]
    for path in sorted(gone, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        path.unlink()
