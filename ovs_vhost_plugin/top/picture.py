# SPDX-License-Identifier: Apache-2.0
"""docs/top.svg: the screen with ports that are made up, so that the picture is always the same.

python -m ovs_vhost_plugin.top.picture >docs/top.svg        or: make top-picture
"""

from __future__ import annotations

import io
import re
from typing import Any

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from ovs_vhost_plugin.top.model import LivePorts
from ovs_vhost_plugin.top.screen import screen
from ovs_vhost_plugin.top.view import View

WIDTH, HEIGHT = 80, 20

# status, frames and bytes a second in either direction, drops, filled of 256, kicks, wakeups
_MADE_UP = {
    "web-1": ("running", 81_240, 84_390_000, 40_180, 3_210_000, 0, 201, 3, 812, 1_620),
    "web-2": ("running", 64_020, 66_170_000, 31_100, 2_490_000, 0, 188, 2, 690, 1_410),
    "db-1": ("leaving", 9_310, 1_120_000, 12_870, 18_600_000, 0, 240, 9, 2_140, 3_300),
    "cache-1": ("coming", 0, 0, 0, 0, 0, 256, 0, 0, 0),
    "build-7": ("running", 2_410, 3_610_000, 1_200, 80_100, 118, 4, 0, 60, 410),
    "mail": ("running", 31, 14_200, 28, 9_300, 0, 251, 0, 28, 59),
    "idle-1": ("running", 0, 0, 0, 0, 0, 256, 0, 0, 0),
    "new-vm": ("connecting", 0, 0, 0, 0, 0, 0, 0, 0, 0),
}


def _answer(seconds: int) -> dict[str, Any]:
    ports, stats = {}, {}
    for name, (status, *rates) in _MADE_UP.items():
        rx, rx_bytes, tx, tx_bytes, drops, rx_filled, tx_filled, kicks, wakes = rates
        counters = {"rx_packets": rx, "rx_bytes": rx_bytes, "rx_dropped_no_buffers": drops}
        counters |= {"tx_packets": tx, "tx_bytes": tx_bytes, "tx_kicks": kicks, "wakeups": wakes}
        pair = {key: count * seconds for key, count in counters.items()}
        pair |= {"rx_ring_filled": rx_filled, "tx_ring_filled": tx_filled}
        size = 256 if rx_filled else 0
        pair |= {"rx_ring_size": size, "tx_ring_size": size}
        ports[name] = {"bridge": "br0", "status": status, "error": ""}
        stats[name] = {"queue_pairs": [pair]}
    return {
        "now": 100.0 + seconds,
        "standing": "active",
        "ports": ports,
        "stats": stats,
        "migrations": [
            _move("web-2", "comes", "came", 38.2, "first-frame-received", 4.1),
            _move("db-1", "leaves", "under-way", 1.4, "memory-is-copied", None),
        ],
        "announcements": [_announced("52:54:00:12:34:57", "web-2", 38.2, 1.9)],
    }


def _move(port: str, way: str, end: str, ago: float, step: str, outage: float | None) -> Any:
    timeline = [{"at": 102.0 - ago, "ms": 0.0, "event": step}]
    about = {"port": port, "way": way, "end": end, "trigger": "send-rarp"}
    return {**about, "timeline": timeline, "outage_ms": outage}


def _announced(mac: str, port: str, ago: float, took: float) -> Any:
    times = {"received_at": 0.0, "sent_at": None, "learned_at": 102.0 - ago, "milliseconds": took}
    return {"mac": mac, "port": port, "outcome": "learned", "trigger": "send-rarp", **times}


def svg() -> str:
    """The picture as a document, which loads no fonts of others."""
    ports = LivePorts()
    for seconds in (0, 2):
        ports.take(_answer(seconds))
    shown, _ = screen(ports, View(), WIDTH, HEIGHT)
    console = Console(record=True, width=WIDTH, height=HEIGHT, file=io.StringIO())
    console.print(shown)
    plain = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    plain = plain.replace("<svg ", '<svg xml:space="preserve" ', 1)  # numbers to the right
    made = console.export_svg(title="ovs-vhost top", code_format=plain)
    return "\n".join(line.rstrip() for line in made.splitlines()) + "\n"


if __name__ == "__main__":
    print(svg(), end="")
