# SPDX-License-Identifier: Apache-2.0
"""The time limit of frames kept for an announced guest. Time is an argument."""

from __future__ import annotations

SECONDS = 2.0
"""QEMU starts the rings within milliseconds, and its last announcement comes after 0.8 s."""


class Expectation:
    """Counts from the first look at an expected guest: the worker may have slept long before."""

    def __init__(self) -> None:
        self._until: float | None = None

    def overdue(self, now: float, *, expecting: bool) -> bool:
        """Whether a guest is expected and its time is over."""
        if not expecting:
            self._until = None
        elif self._until is None:
            self._until = now + SECONDS
        return self._until is not None and now >= self._until

    def get_timer(self) -> float | None:
        """The time at which the guest is `overdue`; None while no guest is expected."""
        return self._until
