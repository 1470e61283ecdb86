# SPDX-License-Identifier: Apache-2.0
"""Rows as a screen, for rich. Pure. The table takes 80 columns, whatever the numbers are."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ovs_vhost_plugin.common.text import escaped
from ovs_vhost_plugin.top.detail import detail
from ovs_vhost_plugin.top.figures import in_short
from ovs_vhost_plugin.top.happenings import Happening
from ovs_vhost_plugin.top.model import LivePorts, PortRow
from ovs_vhost_plugin.top.view import Order, View

NAME_WIDTH = 15
"""Characters of the longest name of a Linux device (IFNAMSIZ of <linux/if.h>)."""
EVENTS = 3
"""Lines of events below the table."""
_AROUND = 3  # lines that are always there: the sums, the heads, the keys
_FEW_LINES = 14  # a terminal with fewer has no lines for events

_RATES = (
    # head, the rate, its width, its order
    ("rx pkt", "rx_packets", 6, Order.PACKETS),
    ("rx bit", "rx_bits", 6, Order.BITS),
    ("tx pkt", "tx_packets", 6, Order.PACKETS),
    ("tx bit", "tx_bits", 6, Order.BITS),
    ("drops", "drops", 5, Order.DROPS),
)
_NOTICES = (("kicks", "kicks", 5, Order.KICKS), ("wakes", "wakeups", 5, Order.WAKEUPS))
_COLOURS = {"running": "green", "error": "red", "leaving": "magenta", "coming": "magenta"}
_KEYS = "q quit  s sort  / filter  up, down, Enter: one port"


def screen(
    ports: LivePorts, view: View, width: int, height: int, trouble: str = ""
) -> tuple[RenderableType, list[str]]:
    """The whole screen, and the names of the ports on it.

    trouble  why the last question was not answered; "": it was
    """
    trouble = trouble or ("" if ports.standing == "active" else ports.standing)
    rows = ports.rows()
    if (one := view.chosen(rows)) is not None:
        events = [event for event in ports.events if event.port == one.name]
        parts = [*detail(one), *_events(events[-EVENTS:], width)]
        return _fitted(parts, Text("Enter back  q quit"), trouble, width), [one.name]
    events = ports.events[-EVENTS:] if height >= _FEW_LINES else []
    room = max(1, height - _AROUND - len(_wrapped(trouble, width)) - len(events))
    arranged = view.arrange(rows)
    shown = view.window(arranged, room)
    parts = [_sums(rows), table(shown, view)]
    if len(shown) < room:
        parts.append(Text("\n" * (room - len(shown) - 1)))
    whole = _fitted([*parts, *_events(events, width)], _keys(view, len(arranged)), trouble, width)
    return whole, [r.name for r in shown]


def _fitted(
    parts: Sequence[RenderableType], keys: Text, trouble: str, width: int
) -> RenderableType:
    return Group(*parts, *_wrapped(trouble, width), keys)


def _wrapped(trouble: str, width: int) -> list[Text]:
    """The lines of why a question was not answered: what to do is not to be cut."""
    return [
        _line(line, "bold red") for line in textwrap.wrap(trouble, width, break_on_hyphens=False)
    ]


def table(rows: Iterable[PortRow], view: View) -> Table:
    """The rows, with numbers a second and the rings' fill in percent."""
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    made.add_column("port", width=NAME_WIDTH, no_wrap=True, header_style=_head(view, Order.NAME))
    made.add_column("status", width=10, no_wrap=True)
    for head, _, width, order in _RATES:
        made.add_column(head, width=width, justify="right", header_style=_head(view, order))
    for head in ("rx%", "tx%"):
        made.add_column(head, width=3, justify="right")
    for head, _, width, order in _NOTICES:
        made.add_column(head, width=width, justify="right", header_style=_head(view, order))
    for row in rows:
        cells = [_line(row.name, "bold"), _line(row.status, _COLOURS.get(row.status, "yellow"))]
        cells += [_rate(row, rate) for _, rate, _, _ in _RATES]
        cells += [Text(_percent(row.fill(direction))) for direction in (0, 1)]
        cells += [_rate(row, rate) for _, rate, _, _ in _NOTICES]
        made.add_row(*cells, style="reverse" if row.name == view.selected else "")
    return made


def _head(view: View, order: Order) -> str:
    return "bold underline" if order is view.order else "bold"


def _rate(row: PortRow, name: str) -> Text:
    rate = row.rate(name)
    return Text(in_short(rate), "red" if name == "drops" and rate else "")


def _percent(fill: int | None) -> str:
    return "-" if fill is None else str(fill)


def _sums(rows: Sequence[PortRow]) -> Text:
    """The first line: how many ports, and what they carry together."""
    running = sum(row.status == "running" for row in rows)
    words = [f"{len(rows)} ports, {running} running"]
    for ring in ("rx", "tx"):
        packets, bits = (sum(r.rate(f"{ring}_{n}") or 0 for r in rows) for n in ("packets", "bits"))
        words.append(f"{ring} {in_short(packets)} pkt/s {in_short(bits)}bit/s")
    return _line("  ".join(words))


def _events(events: Iterable[Happening], width: int) -> list[Text]:
    return [_event(event, width) for event in events]


def _event(event: Happening, width: int) -> Text:
    line = f"{in_short(max(0.0, event.ago)):>5} s ago  {event.port}: {event.text}"
    text = _line(line, "cyan")
    text.truncate(width, overflow="ellipsis")
    return text


def _keys(view: View, passed: int) -> Text:
    if view.typed is not None:
        return _line(f"filter: {view.typed}_   {passed} ports   Enter: keep  Escape: leave")
    chosen = f"by {view.order.value}"
    chosen += f", {passed} with {view.filter}" if view.filter else ""
    return _line(f"{chosen}   {_KEYS}", "dim")


def _line(text: str, style: str = "") -> Text:
    """One line: what is longer than the screen is cut."""
    return Text(escaped(text), style, no_wrap=True, overflow="ellipsis")
