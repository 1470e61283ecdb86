# SPDX-License-Identifier: Apache-2.0
"""One port alone: every counter, its rings, its guest's addresses, faults by name. Pure."""

from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ovs_vhost_plugin.common.text import escaped
from ovs_vhost_plugin.top.figures import in_short
from ovs_vhost_plugin.top.model import PortRow

_MOST = 8  # queue pairs, addresses, or names that are shown


def detail(row: PortRow) -> list[RenderableType]:
    """The port, from its status to its addresses."""
    head = f"{row.name} on {row.bridge}: {row.status}"
    parts: list[RenderableType] = [_text(head, "bold")]
    if row.error:
        parts.append(_text(row.error, "red"))
    if not row.stats:
        return [*parts, _text("its worker has not told its counters")]
    counters = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    counters.add_column("counter")
    counters.add_column("a second", justify="right")
    counters.add_column("total", justify="right")
    for name, total in row.totals.items():
        if total:
            style = "red" if "_dropped_" in name and row.rate(name) else ""
            counters.add_row(escaped(name), in_short(row.rate(name)), str(total), style=style)
    return [*parts, counters, *map(_text, _others(row))]


def _others(row: PortRow) -> Iterator[str]:
    for direction, ring in enumerate(("rx", "tx")):
        fills = [pair[direction] for pair in row.rings]
        shown = [f"{fill.filled} of {fill.size}" for fill in fills[:_MOST] if fill.size]
        if shown:
            yield f"{ring} ring{'s' if len(shown) > 1 else ''}: {_list(shown, len(fills))}"
    for title, named in (("faults", "faults"), ("errors", "errors"), ("held", "hold")):
        counts = [f"{name} {n}" for name, n in sorted(_counts(row, named).items()) if n]
        if counts:
            yield f"{title}: {_list(counts[:_MOST], len(counts))}"
    addresses = row.stats.get("addresses", ())
    for one in addresses[:_MOST]:
        vlan = [f"vlan {one['vlan']}"] if one["vlan"] else []
        yield " ".join(["guest", one["mac"], *vlan, *one["ipv4"], *one["ipv6"]])
    if len(addresses) > _MOST:
        yield f"and {len(addresses) - _MOST} more addresses: ovs-vhost stats {row.name}"


def _counts(row: PortRow, name: str) -> dict[str, Any]:
    found: dict[str, Any] = row.stats.get(name, {})
    return found


def _list(shown: list[str], of: int) -> str:
    more = f", and {of - len(shown)} more" if of > len(shown) else ""
    return ", ".join(shown) + more


def _text(text: str, style: str = "") -> Text:
    return Text(escaped(text), style)
