# SPDX-License-Identifier: Apache-2.0
"""Errors with a name for programs, counters and rows, and a text for people."""

from enum import StrEnum


class NamedError(Exception):
    """An error's name; the text gives the value seen, or a remedy."""

    def __init__(self, name: StrEnum, text: str = "") -> None:
        super().__init__(f"{name}: {text}" if text else str(name))
        self.name = name
        self.text = text
