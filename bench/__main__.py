# SPDX-License-Identifier: Apache-2.0
"""All benchmarks in one run, and whether each goal is reached.

    make bench      or: python -m bench [--quick] [--only NAME ...] [--json FILE] [--plot FILE]

Each benchmark runs as its own program, one after the other, and tells its progress. What cannot
run here is left out, with the reason. A quick run has few rounds: it shows that all works, and
figures with a wide spread.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import judging
from bench.judging import Judge, Row
from bench.processor import processor

_WIDTH = 110  # of a table that does not go to a terminal
_REASON = 300  # characters of a benchmark's last words


@dataclass(frozen=True, slots=True)
class Part:
    """One benchmark: its module, options of a full and of a quick run, and who judges it."""

    module: str
    judge: Judge
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()


PARTS = {
    "rings": Part("bench_rings", judging.rings, quick=("--rounds", "3", "--seconds", "0.3")),
    "tap": Part("bench_tap", judging.tap, quick=("--rounds", "9")),
    "port": Part("bench_port", judging.port, quick=("--rounds", "2", "--seconds", "0.2")),
    "tcp": Part("bench_tcp", judging.tcp, quick=("--rounds", "2", "--seconds", "1")),
    "latency": Part("bench_latency", judging.latency, quick=("--rounds", "2", "--seconds", "0.5")),
    "moves": Part("bench_moves", judging.moves, quick=("--runs", "1")),
    "announce": Part(
        "bench_announce", judging.announcements, quick=("--times", "50", "--dpdk-times", "0")
    ),
    "scale": Part("bench_scale", judging.scale, quick=("--ports", "32")),
}


class LeftOutError(Exception):
    """A benchmark that did not run to its end: its last words."""


def measure(part: Part, screen: Console, *, quick: bool) -> list[Row]:
    """Run a benchmark; raises LeftOutError. `screen` shows what it says meanwhile."""
    words = [sys.executable, "-m", f"bench.{part.module}", "--json"]
    words += part.quick if quick else part.full
    last = "no word of it"
    with tempfile.TemporaryFile("w+") as found:
        with subprocess.Popen(words, stdout=found, stderr=subprocess.PIPE, text=True) as running:
            for line in running.stderr or ():
                last = line.strip() or last
                screen.print(line.rstrip(), markup=False, highlight=False)
        if running.returncode != 0:
            raise LeftOutError(last[-_REASON:])
        found.seek(0)
        return list(part.judge(json.load(found)))


def all_rows(
    names: Sequence[str], skipped: dict[str, str], screen: Console, *, quick: bool
) -> Iterator[Row]:
    """The rows of all benchmarks; `skipped` takes why one has none."""
    for number, name in enumerate(names, 1):
        with screen.status(f"{name} ({number} of {len(names)})"):
            try:
                yield from measure(PARTS[name], screen, quick=quick)
            except LeftOutError as reason:
                skipped[name] = str(reason)
                screen.print(f"{name} is left out: {reason}", markup=False)


def table(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    made = Table(title=processor())
    for heading in ("", "measured", "", "from–to", "beside", "goal", ""):
        made.add_column(heading, justify="right" if heading in ("measured", "goal") else "left")
    for row in rows:
        spread = "" if row.spread is None else f"{row.spread[0]:.2f}–{row.spread[1]:.2f}"
        verdict = {None: "", True: "met", False: "missed"}[row.met]
        figure = f"{row.figure:.3g}" if row.figure < 100 else f"{row.figure:,.0f}"
        made.add_row(row.what, figure, row.unit, spread, row.peer, row.goal, verdict)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, some minutes in all")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the ratios (SVG)")
    options = parser.parse_args()
    skipped: dict[str, str] = {}
    screen = Console(stderr=True)
    rows = list(all_rows(options.only, skipped, screen, quick=options.quick))
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table(rows))
    if options.json:
        found = [asdict(row) | {"met": row.met} for row in rows]
        whole = {"processor": processor(), "rows": found, "left_out": skipped}
        options.json.write_text(json.dumps(whole, indent=2) + "\n")
    if options.plot:
        # Imported late: a run without a picture does without the library.
        from bench.ratio_plot import draw

        draw(rows, processor(), options.plot)
    return 1 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
