# SPDX-License-Identifier: Apache-2.0
"""A program that makes private hosts removes them however it ends: by an error or a signal, too."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from ovs_vhost_plugin.lab import interruption
from ovs_vhost_plugin.lab.hosts import namespace

INTERRUPTED = 130
"""The exit status of a program that a signal has ended, as shells have it for SIGINT."""


@contextlib.contextmanager
def taken_down() -> Iterator[None]:
    """Take all down in order, whatever ends the context, so that nothing is left.

    The first SIGINT, SIGTERM or SIGHUP becomes a KeyboardInterrupt where the program waits next;
    they are ignored while things are taken down.  In the end everything with our pid in its name is
    removed, if something could not remove what it had made.
    """
    with interruption.noted() as noted:
        namespace.sweep()
        try:
            yield
        finally:
            noted.end()
            namespace.sweep(os.getpid())


def play(main: Callable[[], int | None]) -> int:
    """Run a program that makes private hosts, and take them down; its exit status."""
    try:
        with taken_down():
            return main() or 0
    except KeyboardInterrupt:
        return INTERRUPTED
