# SPDX-License-Identifier: Apache-2.0
"""The moves of guests in a file, so that the next daemon can tell of them.

A restart of the daemon, for an upgrade, is when one would look. The file is in the run directory,
in root's own part of it. A thread writes it, seldom and whole, so the loop never waits for a disk.
Nothing depends on it: what cannot be written or read is said, and is not told later.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ovs_vhost_plugin.common.history import MOST
from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.daemon.guests.moves import GuestMove, Moves, Step, Way

vlog = Vlog("vhost_moves")

PAUSE = 5.0
"""Seconds from a change until it is written."""
MOST_BYTES = 4 * 1024 * 1024
"""Bytes of a file that is read: 256 moves with 64 stations each have less."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class KeptMoves:
    """Writes the moves after a change; reads those of an earlier daemon once."""

    def __init__(self, moves: Moves, path: Path, thread: ThreadPoolExecutor) -> None:
        self._moves = moves
        self._path = path
        self._thread = thread
        self._boot = _BOOT_ID.read_text().strip()  # the moves' times count from the start
        self._recalled = False
        self._due: float | None = None
        self._writing: Future[None] | None = None
        self._error = ""

    def run(self, now: float, *, serving: bool) -> None:
        """Read once this daemon serves, and write what has changed for some time."""
        if not serving:
            return
        if not self._recalled:
            self._recall()
        if self._writing is not None and self._writing.done():
            self._done(self._writing)
        if not self._moves.changed:
            return
        if self._due is None:
            self._due = now + PAUSE
        elif now >= self._due and self._writing is None:
            self._write()
        elif now >= self._due:
            self._due = now + PAUSE  # the disk is slow

    def wait(self, poller: Any) -> None:
        """Register when `run` has something to write."""
        if self._due is not None:
            poller.timer_wait_until(self._due * 1e3)

    def close(self) -> None:
        """Write what is not written yet, at once: the daemon ends, perhaps by a signal."""
        under_way = self._writing is not None and not self._writing.done()
        if not self._recalled or not (self._moves.changed or under_way):
            return
        try:
            _replace(self._path, encode(self._moves.history, self._boot), ".last")
        except OSError as error:
            self._failed(str(error))

    def _recall(self) -> None:
        self._recalled = True
        try:
            self._moves.recall(read(self._path, self._boot))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            vlog.warn(f"migrations that an earlier daemon saw are not told: {error}")

    def _write(self) -> None:
        self._moves.changed, self._due = False, None
        data = encode(self._moves.history, self._boot)
        self._writing = self._thread.submit(_replace, self._path, data, ".new")

    def _done(self, writing: Future[None]) -> None:
        self._writing = None
        error = writing.exception()
        if error is not None:
            self._failed(str(error))
        elif self._error:
            vlog.info("migrations are kept for the next daemon again")
            self._error = ""

    def _failed(self, error: str) -> None:
        if error != self._error:
            vlog.warn(f"migrations are not kept for the next daemon: {error}")
        self._error = error


def encode(moves: Iterable[GuestMove], boot: str) -> bytes:
    """The file's contents."""
    found = [
        {
            "port": move.port,
            "way": move.way,
            "at": move.at,
            "trigger": move.trigger,
            "counts": move.counts,
            "places": move.places,
            "announced": move.announced,
        }
        for move in moves
    ]
    return json.dumps({"boot": boot, "moves": found}).encode()


def read(path: Path, boot: str) -> list[GuestMove]:
    """The moves in the file; none of an earlier start of the machine.

    Raises OSError, and ValueError if it is not such a file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:  # noqa: PTH123 - of this very fd
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError(f"{path} is no file")
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{path} is too large")
    try:
        told = json.loads(data)
        if told["boot"] != boot:
            return []
        return [_decode(one) for one in told["moves"][-MOST:]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error!r:.100}") from error


def _decode(told: dict[str, Any]) -> GuestMove:
    at = {Step(step): float(at) for step, at in told["at"].items()}
    if not at or not all(map(math.isfinite, at.values())):
        raise ValueError("times")
    return GuestMove(
        port=_text(told["port"]),
        way=Way(told["way"]),
        at=at,
        trigger=_text(told["trigger"]),
        counts={_text(key): _count(value) for key, value in told["counts"].items()},
        places={_text(key): _count(value) for key, value in told["places"].items()},
        announced={_text(key): _text(value) for key, value in told["announced"].items()},
    )


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError("a text")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int):
        raise ValueError("a number")
    return value


def _replace(path: Path, data: bytes, suffix: str) -> None:
    """Put `data` in place of the file, whole or not at all. Raises OSError.

    `suffix` of the new file's name until then: the loop may write while the thread does.
    """
    new = path.with_suffix(suffix)
    try:
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:  # noqa: PTH123 - of this very fd
            file.write(data)
        new.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
