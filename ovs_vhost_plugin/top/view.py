# SPDX-License-Identifier: Apache-2.0
"""Which rows are shown in which order, and what a key changes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ovs_vhost_plugin.top.model import PortRow


class Order(StrEnum):
    """The value by which rows are ordered, the largest first; names in their own order."""

    BITS = "bits"
    PACKETS = "packets"
    DROPS = "drops"
    KICKS = "kicks"
    WAKEUPS = "wakeups"
    NAME = "name"


_ORDERS = list(Order)


@dataclass(slots=True)
class View:
    """The choices of whoever looks.

    filter    only ports with this in their name, bridge or status are shown
    typed     the filter while it is typed; None: keys are commands
    selected  the name of the marked row; "": none
    detail    whether the marked port is shown alone
    """

    order: Order = Order.BITS
    filter: str = ""
    typed: str | None = None
    selected: str = ""
    detail: bool = False

    def arrange(self, rows: Sequence[PortRow]) -> list[PortRow]:
        """The rows that pass the filter, in order."""
        wanted = self.filter if self.typed is None else self.typed
        found = [r for r in rows if any(wanted in t for t in (r.name, r.bridge, r.status))]
        if self.order is Order.NAME:
            return sorted(found, key=lambda row: row.name)
        return sorted(found, key=lambda row: (-(row.rate(self.order) or 0.0), row.name))

    def window(self, arranged: Sequence[PortRow], room: int) -> list[PortRow]:
        """Those that fit into `room` lines, the marked one among them."""
        names = [row.name for row in arranged]
        at = names.index(self.selected) if self.selected in names else 0
        first = max(0, at - room + 1)
        return list(arranged[first : first + room])

    def chosen(self, rows: Sequence[PortRow]) -> PortRow | None:
        """The port that is shown alone; None: the table is shown."""
        return next((r for r in rows if self.detail and r.name == self.selected), None)

    def press(self, key: str, arranged: Sequence[PortRow]) -> bool:
        """Follow a key (`keyboard.py`); return whether to go on."""
        if self.typed is not None:
            self._type(key)
            return True
        match key:
            case "q":
                return False
            case "s":
                self.order = _ORDERS[(_ORDERS.index(self.order) + 1) % len(_ORDERS)]
            case "/":
                self.typed, self.detail = self.filter, False
            case "up" | "down":
                self._step(1 if key == "down" else -1, [row.name for row in arranged])
            case "enter" | "right" if not self.detail:
                if not self.selected:
                    self._step(1, [row.name for row in arranged])
                self.detail = bool(self.selected)
            case "enter" | "left" | "escape" if self.detail:
                self.detail = False
            case "escape":
                self.filter = self.selected = ""
        return True

    def _type(self, key: str) -> None:
        typed = self.typed or ""
        match key:
            case "enter":
                self.filter, self.typed = typed, None
            case "escape":
                self.typed = None
            case "backspace":
                self.typed = typed[:-1]
            case _ if len(key) == 1 and key.isprintable():
                self.typed = typed + key

    def _step(self, step: int, names: Sequence[str]) -> None:
        if self.selected in names:
            at = names.index(self.selected) + step
            self.selected = names[min(max(at, 0), len(names) - 1)]
        else:
            self.selected = names[0] if names else ""
