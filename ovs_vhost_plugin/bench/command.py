# SPDX-License-Identifier: Apache-2.0
"""`ovs-vhost bench`: all benchmarks in one run, and whether each goal is reached.

Each benchmark runs as its own program, one after the other, and tells its progress. What cannot
run here is left out, with the reason. A quick run has few rounds: it shows that all works, and
figures with a wide spread.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.table import Table

from ovs_vhost_plugin.bench import judging
from ovs_vhost_plugin.bench.judging import BenchRow, Judge
from ovs_vhost_plugin.bench.processor import processor
from ovs_vhost_plugin.control import add_format
from ovs_vhost_plugin.lab.interruption import noted
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.platform.packages import Program
from ovs_vhost_plugin.lab.process import readable
from ovs_vhost_plugin.lab.takedown import INTERRUPTED

_WIDTH = 110  # of a table that does not go to a terminal
_HERE = str(Path(__file__).parents[2])
_REASON = 300  # characters of a benchmark's last words


@dataclass(frozen=True, slots=True)
class Part:
    """One benchmark: its module, who judges it, what it needs, and options of a quick run."""

    module: str
    """Its name in this package."""
    judge: Judge
    needs: tuple[Program, ...] = ()
    quick: tuple[str, ...] = ()


IPERF3, TESTPMD, PING = (
    program for program in packages.TEST if program.name in ("iperf3", "dpdk-testpmd", "ping")
)
(BUSYBOX,) = (program for program in packages.GUEST if program.name == "busybox")
_TRAFFIC = (*packages.SWITCH, IPERF3, PING)

PARTS = {
    "rings": Part(
        "rings.bench_rings", judging.rings, (TESTPMD,), quick=("--rounds", "3", "--seconds", "0.3")
    ),
    "tap": Part("tap.bench_tap", judging.tap, quick=("--rounds", "9")),
    "port": Part(
        "tap.bench_port",
        judging.port,
        (*packages.SWITCH, TESTPMD),
        quick=("--rounds", "2", "--seconds", "0.2"),
    ),
    "tcp": Part(
        "switch.bench_tcp", judging.tcp, _TRAFFIC, quick=("--rounds", "2", "--seconds", "1")
    ),
    "latency": Part(
        "switch.bench_latency",
        judging.latency,
        (*_TRAFFIC, BUSYBOX),
        quick=("--rounds", "2", "--seconds", "0.5"),
    ),
    "vms": Part(
        "switch.bench_vms",
        judging.vms,
        (*_TRAFFIC, TESTPMD),
        quick=("--rounds", "2", "--seconds", "1"),
    ),
    "moves": Part(
        "switch.bench_moves", judging.moves, (*packages.SWITCH, PING), quick=("--runs", "1")
    ),
    "announce": Part(
        "switch.bench_announce",
        judging.announcements,
        (*packages.SWITCH, *packages.GUEST),
        quick=("--times", "50", "--dpdk-times", "20"),
    ),
    "scale": Part("scale.bench_scale", judging.scale, packages.SWITCH, quick=("--ports", "32")),
}


class LeftOutError(Exception):
    """A benchmark that did not run to its end: its last words."""


def measure(part: Part, skipped: dict[str, str], screen: Console, *, quick: bool) -> list[BenchRow]:
    """Run a benchmark; raises LeftOutError. `screen` shows what it says meanwhile.

    `skipped` takes peers that it could not be compared with.
    """
    if words := packages.missing(part.needs):
        raise LeftOutError(words)
    argv = [sys.executable, "-P", "-m", f"{__package__}.{part.module}", "--json"]
    if quick:
        argv += part.quick
    path = os.pathsep.join(filter(None, [_HERE, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryFile("w+") as found:
        running = subprocess.Popen(
            argv,
            stdout=found,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C reaches this program alone, which passes it on
        )
        assert running.stderr is not None
        with running:
            try:
                last = _shown(running.stderr, screen)
            except KeyboardInterrupt:
                running.send_signal(signal.SIGINT)
                running.wait()  # until it has taken down what it made
                raise
        if running.returncode != 0:
            raise LeftOutError(last[-_REASON:])
        found.seek(0)
        answer = json.load(found)
    if isinstance(answer, dict):
        skipped |= answer.get("left_out", {})
    return list(part.judge(answer))


def _shown(stderr: IO[bytes], screen: Console) -> str:
    """Show what a benchmark says until it ends; its last words.  Raises what `hear` raises."""
    last, begun, data = "no word of it", b"", b"begin"
    while data and readable(stderr, math.inf):
        data = os.read(stderr.fileno(), 1 << 16)
        *lines, begun = (begun + (data or b"\n")).split(b"\n")
        for line in lines:
            if words := line.decode(errors="replace").rstrip():
                screen.print(words, markup=False, highlight=False)
                last = words.strip()
    return last


def all_rows(
    names: Sequence[str], skipped: dict[str, str], screen: Console, *, quick: bool
) -> Iterator[BenchRow]:
    """The rows of all benchmarks; `skipped` takes why one has none."""
    for number, name in enumerate(names, 1):
        with screen.status(f"{name} ({number} of {len(names)})"):
            try:
                yield from measure(PARTS[name], skipped, screen, quick=quick)
            except LeftOutError as reason:
                skipped[name] = str(reason)
                screen.print(f"{name} is left out: {reason}", markup=False)


def table(rows: Sequence[BenchRow]) -> Table:
    """The rows for people."""
    made = Table(title=processor())
    for heading in ("", "measured", "", "from–to", "beside", "goal", ""):
        made.add_column(heading, justify="right" if heading in ("measured", "goal") else "left")
    for row in rows:
        spread = "" if row.spread is None else "–".join(map(_ratio, row.spread))
        verdict = {None: "", True: "met", False: "missed"}[row.met]
        figure = f"{row.figure:.3g}" if row.figure < 100 else f"{row.figure:,.0f}"
        made.add_row(row.what, figure, row.unit, spread, row.peer, row.goal, verdict)
    return made


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


def parser() -> argparse.ArgumentParser:
    """The parser of the command's options; the man page is made from it too."""
    parser = argparse.ArgumentParser(
        prog="ovs-vhost bench",
        description="Measure the data path and the daemon on private hosts, beside the peers that "
        "are installed: DPDK's librte_vhost and its tap driver, OVS-DPDK, QEMU's tap, a veth port. "
        "Prints each figure with its goal. What cannot run here is left out, with the reason. It "
        "takes both processors for half an hour, and needs root.",
        epilog="Example: ovs-vhost bench --quick --only tap tcp",
    )
    parser.add_argument(
        "--quick", action="store_true", help="few rounds: some minutes in all, and a wide spread"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        metavar="NAME",
        help=f"only these: {', '.join(PARTS)} (default: all)",
    )
    add_format(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON into this file")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the ratios into this file (SVG, matplotlib)"
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """`ovs-vhost bench ARGV…`; the exit status, which is 1 if anything is left out."""
    options = parser().parse_args(argv)
    if options.plot and find_spec("matplotlib") is None:
        print("ovs-vhost bench: --plot needs matplotlib, which is not installed", file=sys.stderr)
        return 1
    skipped: dict[str, str] = {}
    screen = Console(stderr=True)
    try:
        with noted():
            rows = list(all_rows(options.only, skipped, screen, quick=options.quick))
    except KeyboardInterrupt:
        screen.print("ovs-vhost bench: interrupted")
        return INTERRUPTED
    found = [asdict(row) | {"met": row.met} for row in rows]
    whole = {"processor": processor(), "rows": found, "left_out": skipped}
    text = json.dumps(whole, indent=2) + "\n"
    if options.format == "json":
        print(text, end="")
    else:
        show(rows, skipped)
    if options.json:
        options.json.write_text(text)
    if options.plot:
        # Imported late: a run without a picture does without the library.
        from ovs_vhost_plugin.bench.ratio_plot import draw

        draw(rows, processor(), options.plot)
    return 1 if skipped else 0


def show(rows: Sequence[BenchRow], skipped: Mapping[str, str]) -> None:
    """Print the table, and what is not in it."""
    out = Console(width=None if sys.stdout.isatty() else _WIDTH)
    out.print(table(rows))
    for name, reason in skipped.items():
        out.print(f"{name} is left out: {reason}", markup=False, highlight=False)
