# SPDX-License-Identifier: Apache-2.0
"""Base of things that are set up when their context is entered and taken down when it is left.

Everything the lab makes belongs to the machine and outlives a program that forgets it. So each
thing is noted as soon as it is made, and removed in reverse order, also when the next one could not
be made.
"""

from __future__ import annotations

import abc
import contextlib
from typing import Self


class Setup(abc.ABC):
    """A context of things made by `_set_up`, which enters each in `_closing`."""

    def __init__(self) -> None:
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            self._set_up()
        except BaseException:
            self._closing.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    @abc.abstractmethod
    def _set_up(self) -> None:
        """Make it all."""
