# SPDX-License-Identifier: Apache-2.0
"""Signals end a program of the lab where it waits, with nothing half made.

An exception that a signal's handler raises comes anywhere: between the making of a thing and the
note that it is there to be removed, in a destructor, where it goes no further, in the standard
library with a lock held.  So a handler only notes the signal, and whoever waits asks (`hear`).
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

HEARD_WITHIN = 0.1
"""Seconds after which a wait of any kind asks at the latest."""


class Interruption:
    """Whether a signal has asked the program to end, and whether it is ending."""

    def __init__(self) -> None:
        self._asked = False
        self._ending = False

    def note(self, _number: int, _frame: FrameType | None) -> None:
        """Handle a signal.  A second one does not wait: the program may be computing for long."""
        again, self._asked = self._asked, True
        if again:
            self.hear()

    def hear(self) -> None:
        """Raise KeyboardInterrupt, once, if a signal has come."""
        if self._asked and not self._ending:
            self._ending = True
            raise KeyboardInterrupt

    def end(self) -> None:
        """Hear no more: the program is ending anyway."""
        self._ending = True


_current = Interruption()


def hear() -> None:
    """Raise KeyboardInterrupt, once, if a signal has come that `noted` has taken."""
    if threading.current_thread() is threading.main_thread():
        _current.hear()


@contextlib.contextmanager
def noted() -> Iterator[Interruption]:
    """Note SIGINT, SIGTERM and SIGHUP for `hear`, until the context ends."""
    global _current
    before, _current = _current, Interruption()
    handlers = {number: signal.signal(number, _current.note) for number in SIGNALS}
    try:
        yield _current
    finally:
        _current = before
        for number, handler in handlers.items():
            signal.signal(number, handler)
