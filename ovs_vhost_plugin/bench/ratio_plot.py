# SPDX-License-Identifier: Apache-2.0
"""Draws the ratios of ours to the peers': a bar each, with its spread and its goal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ovs_vhost_plugin.bench.judging import BenchRow

_COLOURS = {None: "tab:gray", True: "tab:green", False: "tab:orange"}
_ROW = 0.24  # inches


def draw(rows: Sequence[BenchRow], processor: str, path: Path) -> None:
    """Write an SVG of the rows that are ratios; the first is at the top. Needs matplotlib."""
    # Here, as it is installed with an extra that only plots need.
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    shown = [row for row in rows if row.unit == "x"]
    # So that the same input makes the same file.
    mpl.rcParams["svg.hashsalt"] = "ratios"
    figure = Figure(figsize=(9, _ROW * max(4, len(shown)) + 1.2), layout="constrained")
    axes = figure.subplots()
    places = range(len(shown))
    axes.barh(places, [row.figure for row in shown], color=[_COLOURS[row.met] for row in shown])
    for place, row in zip(places, shown, strict=True):
        if row.spread is not None:
            axes.plot(row.spread, (place, place), color="black", linewidth=1)
        if row.least is not None:
            axes.plot((row.least, row.least), (place - 0.4, place + 0.4), color="tab:red")
        axes.annotate(f" {row.figure:.2f}", (max(row.spread or (row.figure,)), place), va="center")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_yticks(places, [f"{row.what}, beside {row.peer}" for row in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as the peer; line: lowest and highest; red: the goal")
    axes.set_title(processor, fontsize=9)
    figure.savefig(path, metadata={"Date": None})
