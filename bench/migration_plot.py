# SPDX-License-Identifier: Apache-2.0
"""Plots the data that migrating guests received over time, with marks of the events."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ovs_vhost_plugin.lab.cases import Case
from ovs_vhost_plugin.lab.measure.timeline import Report

SHOWN = ("nobody", "hold-off", "send-rarp", "guest-announce", "guest-known", "guest-hung")
BIN_MS, BEFORE_MS, AFTER_MS = 10, 150, 600
MARKS = {
    "guest stopped": ("guest stopped", "tab:red"),
    "guest runs": ("guest runs", "tab:green"),
    "SEND_RARP received": ("announcement asked for", "tab:purple"),
    "guest moved in": ("announcement asked for", "tab:purple"),
    "guest announces itself (ARP)": ("guest announces itself", "tab:orange"),
    "guest's MAC learned": ("MAC learned", "tab:blue"),
}


def plot(played: Sequence[tuple[Case, Report]], path: Path) -> None:
    """Draw a row for each case that is SHOWN, or for all where none of these was played."""
    chosen = [pair for pair in played if pair[0].name in SHOWN] or list(played)
    # So that the same input makes the same file.
    mpl.rcParams["svg.hashsalt"] = "migration-report"
    figure = Figure(figsize=(9, 1.5 * len(chosen) + 1), layout="constrained")
    rows = figure.subplots(len(chosen), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (case, report) in zip(rows, chosen, strict=True):
        _draw(axes, case, report)
    rows[-1].set_xlabel("milliseconds since the source stopped the guest")
    handles = {}
    for axes in rows:
        lines, labels = axes.get_legend_handles_labels()
        handles.update(zip(labels, lines, strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=5, fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def _draw(axes: Axes, case: Case, report: Report) -> None:
    edges = range(-BEFORE_MS, AFTER_MS + 1, BIN_MS)
    times = [(at - report.stopped) * 1e3 for at in report.received]
    counts = [sum(edge <= t < edge + BIN_MS for t in times) for edge in edges]
    axes.bar([e + BIN_MS / 2 for e in edges], counts, width=BIN_MS, color="0.7", log=True)
    for row in report.rows():
        if row.what in MARKS and -BEFORE_MS <= row.milliseconds <= AFTER_MS:
            label, colour = MARKS[row.what]
            axes.axvline(row.milliseconds, color=colour, linewidth=1.2, label=label)
    axes.set_xlim(-BEFORE_MS, AFTER_MS)
    axes.set_ylim(0.5, None)
    axes.set_ylabel("in 10 ms", fontsize=8)
    axes.set_title(f"{case.what}: {report.lost} lost", fontsize=9, loc="left")
