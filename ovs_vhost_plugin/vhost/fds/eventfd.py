# SPDX-License-Identifier: Apache-2.0
"""Eventfds of our own, for what a front-end wants as messages."""

import os


def new_eventfd() -> int:
    """An eventfd which does not block."""
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
