# SPDX-License-Identifier: Apache-2.0
"""Keys of the terminal, one by one and without an echo. The terminal is as it was afterwards."""

from __future__ import annotations

import os
import select
import signal
import termios
import tty
from contextlib import suppress
from types import TracebackType
from typing import Any

_NAMED = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1b[C": "right",
    b"\x1b[D": "left",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1bOC": "right",
    b"\x1bOD": "left",
    b"\r": "enter",
    b"\n": "enter",
    b"\x7f": "backspace",
    b"\x08": "backspace",
}
"""Sequences of ECMA-48 and xterm, by the key that sends them."""

_CSI = b"\x1b["
_REST = 0.05  # seconds for the rest of a sequence, which a network may have split
_CONTROL_CHARACTERS = 6  # the place of c_cc in what tcgetattr returns


def keys(data: bytes) -> list[str]:
    """The keys that sent `data`: characters, or names. Unknown ones are left out."""
    found = []
    while data:
        length = _length(data)
        piece, data = data[:length], data[length:]
        if piece in _NAMED:
            found.append(_NAMED[piece])
        elif piece == b"\x1b":
            found.append("escape")
        elif piece[:1] != b"\x1b":
            text = piece.decode(errors="ignore")
            found += [text] if text.isprintable() and text else []
    return found


def _length(data: bytes) -> int:
    """The bytes of the first key."""
    if data.startswith(_CSI):
        # ECMA-48, 5.4: parameters, then one byte from 0x40 on
        ends = (at for at, byte in enumerate(data[2:], 3) if 0x40 <= byte <= 0x7E)
        return next(ends, len(data))
    if data.startswith(b"\x1bO"):
        return 3
    first = data[0]
    return 1 + (first >= 0xC0) + (first >= 0xE0) + (first >= 0xF0)  # RFC 3629, 3


class Keyboard:
    """The keys of a terminal `fd` within a `with` block; None: there are none, only time passes.

    A changed size of the terminal ends a wait too.
    """

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._before: list[Any] = []
        self._wake: tuple[int, int] = (-1, -1)
        self._old_wake = -1
        self._old_handler: Any = None

    def __enter__(self) -> Keyboard:
        self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_wake = signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        self._old_handler = signal.signal(signal.SIGWINCH, lambda *_: None)
        if self._fd is not None:
            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)
            mode = termios.tcgetattr(self._fd)
            mode[_CONTROL_CHARACTERS][termios.VSUSP] = b"\0"  # Ctrl-Z would leave the screen as is
            termios.tcsetattr(self._fd, termios.TCSANOW, mode)
        return self

    def __exit__(
        self, kind: type | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd is not None:
            with suppress(termios.error):  # it has gone
                termios.tcsetattr(self._fd, termios.TCSAFLUSH, self._before)
        signal.signal(signal.SIGWINCH, self._old_handler)
        signal.set_wakeup_fd(self._old_wake)
        for fd in self._wake:
            os.close(fd)

    def wait(self, seconds: float) -> list[str]:
        """The keys that come within so many seconds, as soon as there are some.

        Raises EOFError when the terminal has gone.
        """
        files = [self._wake[0], *([] if self._fd is None else [self._fd])]
        ready = select.select(files, [], [], max(0.0, seconds))[0]
        if self._wake[0] in ready:
            os.read(self._wake[0], 1024)
        return keys(_read(self._fd)) if self._fd is not None and self._fd in ready else []


def _read(fd: int) -> bytes:
    """The typed bytes, with the rest of a key whose bytes come one after the other."""
    data = os.read(fd, 1024)
    if not data:
        raise EOFError
    if data.endswith(b"\x1b") and select.select([fd], [], [], _REST)[0]:
        data += os.read(fd, 1024)
    return data
