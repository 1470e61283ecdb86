# SPDX-License-Identifier: Apache-2.0
"""Errors with a name for programs, counters and rows, and a text for people."""

from enum import StrEnum


class NamedError(Exception):
    """What went wrong by name; the text says what was seen or what to do about it."""

    def __init__(self, name: StrEnum, text: str = "") -> None:
        super().__init__(f"{name}: {text}" if text else str(name))
        self.name = name
        self.text = text
