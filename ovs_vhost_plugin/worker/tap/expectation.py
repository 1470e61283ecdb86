# SPDX-License-Identifier: Apache-2.0
"""How long frames are kept for a guest that was announced and does not run. Time is an argument."""

from __future__ import annotations

SECONDS = 2.0
"""QEMU starts the rings within milliseconds, and its last announcement comes after 0.8 s."""


class Expectation:
    """Counts from when it is first seen: the worker may have slept for long before."""

    def __init__(self) -> None:
        self._until: float | None = None

    def overdue(self, now: float, *, expecting: bool) -> bool:
        """Whether the guest that is expected, if one is, has had its time."""
        if not expecting:
            self._until = None
        elif self._until is None:
            self._until = now + SECONDS
        return self._until is not None and now >= self._until

    def get_timer(self) -> float | None:
        """When a guest is `overdue`; None while nobody is expected."""
        return self._until
