# SPDX-License-Identifier: Apache-2.0
"""A program that makes private hosts removes them however it ends: by an error or a signal, too."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

from ovs_vhost_plugin.lab.hosts import namespace


@contextlib.contextmanager
def taken_down() -> Iterator[None]:
    """Take all down in order, whatever ends the context, so that nothing is left.

    SIGTERM and SIGHUP become KeyboardInterrupt, as SIGINT is.  Further signals are ignored while
    things are taken down.  A signal may come between the making of a namespace and its entry in the
    list of things to undo: so in the end everything with our pid in its name is removed.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in signals}
    namespace.sweep()
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        namespace.sweep(os.getpid())
        for number, handler in before.items():
            signal.signal(number, handler)
