# SPDX-License-Identifier: Apache-2.0
"""Signals that wake a worker's loop: SIGTERM ends it, others do nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


class Signals:
    """The process's signals. `fd` is readable when one has come; call `drain` then."""

    def __init__(self, on_term: Callable[[], None]) -> None:
        self.fd, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer)
        signal.signal(signal.SIGTERM, lambda *_: on_term())
        for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(ignored, signal.SIG_IGN)

    def drain(self, _now: float) -> None:
        """Take the numbers of the signals."""
        os.read(self.fd, 64)
