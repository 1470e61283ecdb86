# SPDX-License-Identifier: Apache-2.0
"""Eventfds of our own, for kicks and calls that a front-end sends or wants as messages."""

import os


def new_eventfd() -> int:
    """A non-blocking eventfd."""
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
