# SPDX-License-Identifier: Apache-2.0
"""Request and response through Open vSwitch: the 50th and the 99th percentile, beside the peers.

    make bench-latency     or: python -m ovs_vhost_plugin.bench.switch.bench_latency --help

One byte goes each way over a TCP connection, from a client on a veth port of the switch to a guest
and back. Each turn is a process of its own; a ratio is that of one round's turns.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from ovs_vhost_plugin.bench.processor import processor
from ovs_vhost_plugin.bench.switch.options import parse_options
from ovs_vhost_plugin.bench.switch.site import BESIDE, SwitchSite, turn
from ovs_vhost_plugin.lab.measure import latency
from ovs_vhost_plugin.lab.measure.latency import RoundTrips
from ovs_vhost_plugin.lab.takedown import play

PERCENTILES = "p50_us", "p99_us"

Rounds = Mapping[str, Sequence[RoundTrips]]
"""A peer → its turns."""


def measure(rounds: int, seconds: float, wanted: Sequence[str], screen: Console) -> Rounds:
    """Measure each peer in turn, `seconds` in each round."""
    found: dict[str, list[RoundTrips]] = {}
    with contextlib.ExitStack() as closing:
        # As the switch is by default.
        site = SwitchSite(closing, False, wanted)
        for peer in site.peers.values():
            site.serve(peer.guest, latency.SERVER, latency.ECHO_PORT)
        for _ in track(range(rounds), "request and response", console=screen):
            for name, peer in site.peers.items():
                with turn(peer.host):
                    taken = latency.measure(peer.client, peer.address, seconds)
                found.setdefault(name, []).append(taken)
    return found


def summary(rounds: Rounds) -> list[dict[str, Any]]:
    """Each peer's medians, and ratios of ours to the peer's: median, lowest, highest."""
    rows = []
    for name, turns in rounds.items():
        row: dict[str, Any] = {"peer": name, "beside": BESIDE.get(name)}
        for key in PERCENTILES:
            row[key] = round(statistics.median(getattr(turn, key) for turn in turns), 1)
        if name in BESIDE:
            for key in PERCENTILES:
                ours = rounds[BESIDE[name]]
                ratios = [
                    getattr(a, key) / getattr(b, key) for a, b in zip(ours, turns, strict=True)
                ]
                spread = statistics.median(ratios), min(ratios), max(ratios)
                row[f"{key.removesuffix('_us')}_ratio"] = [round(ratio, 3) for ratio in spread]
        rows.append(row)
    return rows


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows as a table."""
    table = Table(title=f"Request and response, microseconds, {processor()}")
    for heading in ("", "p50", "p99", "ours by its, p50", "p99"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        ratios = [
            "{:.2f} ({:.2f}–{:.2f})".format(*row[key]) if key in row else ""
            for key in ("p50_ratio", "p99_ratio")
        ]
        table.add_row(row["peer"], f"{row['p50_us']:.1f}", f"{row['p99_us']:.1f}", *ratios)
    Console(width=110).print(table)


def main() -> None:
    """Print the figures, as a table or as JSON."""
    options = parse_options(__doc__, list(BESIDE), rounds=7, seconds=2, turn="turn")
    rows = summary(measure(options.rounds, options.seconds, options.wanted, options.screen))
    options.print(rows, lambda: show(rows))


if __name__ == "__main__":
    sys.exit(play(main))
