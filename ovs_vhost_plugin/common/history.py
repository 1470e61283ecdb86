# SPDX-License-Identifier: Apache-2.0
"""A bounded record of the last things that ended, which no port fills at the cost of others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

MOST = 256


class _OfPort(Protocol):
    @property
    def port(self) -> str: ...


T = TypeVar("T", bound=_OfPort)


class History(Generic[T]):
    """The last entries, oldest first. When it is full, the port with the most loses its oldest."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._entries: list[T] = []

    def append(self, entry: T) -> None:
        """Add an entry."""
        self._entries.append(entry)
        if len(self._entries) > self._most:
            ((port, _),) = Counter(one.port for one in self._entries).most_common(1)
            oldest = next(i for i, one in enumerate(self._entries) if one.port == port)
            del self._entries[oldest]

    def __iter__(self) -> Iterator[T]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
