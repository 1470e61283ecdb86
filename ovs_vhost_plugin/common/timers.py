# SPDX-License-Identifier: Apache-2.0
"""Times by name, of which the earliest is known without a look at the others."""

import heapq


class Timers:
    """One time a name. Setting and taking one costs the logarithm of their number."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []  # also times that were changed since

    def set(self, name: str, at: float | None) -> None:
        """Set the time of a name; None: it has none."""
        if at is None:
            self._at.pop(name, None)
        elif self._at.get(name) != at:
            self._at[name] = at
            heapq.heappush(self._heap, (at, name))

    def take_due(self, now: float) -> list[str]:
        """The names whose time has come, earliest first; they have none any more."""
        due = []
        while (at := self.get_timer()) is not None and at <= now:
            _, name = heapq.heappop(self._heap)
            del self._at[name]
            due.append(name)
        return due

    def get_timer(self) -> float | None:
        """The earliest time; None: there is none."""
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def clear(self) -> None:
        """Forget all times."""
        self._at.clear()
        self._heap.clear()
