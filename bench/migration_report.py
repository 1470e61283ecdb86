# SPDX-License-Identifier: Apache-2.0
"""Live migrations of a QEMU guest, case by case: a table and a plot for the documentation.

    make migration-report       or: python -m bench.migration_report [--runs N] [CASE ...]

Writes docs/migration-report.md and docs/migration-report.svg, and, when all cases were played, the
excerpt in docs/live-migration.md. Of several runs of a case it shows the median and, where they
differ, the range.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from bench.migration_plot import SHOWN, plot
from ovs_vhost_plugin.lab.cases import CASES, Case, named
from ovs_vhost_plugin.lab.measure.timeline import Report
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import LabError
from ovs_vhost_plugin.lab.stage import Stages
from ovs_vhost_plugin.lab.takedown import INTERRUPTED, taken_down

DOCS = Path(__file__).parents[1] / "docs"
EXCERPT_PAGE = DOCS / "live-migration.md"
RUNS = 3

INTRODUCTION = """\
# Live migration, measured

`make migration-report` makes this page: QEMU guests, emulated (TCG), migrate between two private
hosts on one machine while a client sends to them{runs}. The guest only listens; the client sends
1,000 datagrams a second where nothing else is said. The physical switch between the hosts is an
Open vSwitch without flow cache, which learns from every frame as hardware does.

- A guest that hangs has a thread of real-time priority that wants its only processor all the time.
  Interrupts are served, so frames still arrive; but none of the kernel's work queues runs, and
  virtio_net announces itself from one.
- TCP is iperf3's, paced to 40 Mbit/s with a window of 64 KiB. Frames are told apart by their IPv4
  identification, so that one that is lost counts though TCP sends it again.
- OVS-DPDK runs on the same hosts without hugepages, and sleeps when there is nothing to poll.

The columns; times are in milliseconds, of several runs the median, and the range:

- lost: datagrams (for TCP: frames) that were sent and never received, in all runs. Of these,
  elsewhere: on the cables and in the switch between, where sockets ran full, or not taken by a
  guest that was too slow, whose full port's drops are counted. The rest was lost by the hosts; so
  was all of it where nothing is held.
- downtime: QEMU's own figure, until the source has sent everything. The next four are beyond it:
- resume: until the destination has loaded that and lets the guest run, which is QEMU's as well.
- outage: the longest time without a frame received. delay: the longest that one took. back: from
  the stop until the rate was back, that is nine tenths of it over 100 ms.
- learned: from SEND_RARP, the guest's arrival or its own announcement until the guest's bridge had
  learned it.

"""

PLOT = """
![Datagrams received over time](migration-report.svg)

Datagrams received in 10 ms, of one run each, around the moment the source stopped the guest.
"""


@dataclass
class Played:
    """A case and the reports of its runs."""

    case: Case
    reports: list[Report] = field(default_factory=list)

    def row(self) -> list[str]:
        """The cells of the case's line."""
        reports = self.reports
        sent, lost = (sum(r.sent for r in reports), sum(r.lost for r in reports))
        # A full port drops other frames, too.
        elsewhere = sum(min(r.lost, r.unseen + r.overrun) for r in reports)
        found = all(r.found for r in reports)
        return [
            self.case.name,
            self.case.what,
            f"{sent:,}",
            f"{lost:,}",
            f"{elsewhere:,}" if self.case.whole else "-",
            self._spread(lambda r: r.downtime_ms),
            self._spread(Report.resume_ms),
            self._spread(lambda r: r.outage_ms - r.downtime_ms) if found else "not found",
            self._spread(lambda r: r.delay_ms - r.downtime_ms) if found else "-",
            self._spread(Report.recovery_ms) if found else "-",
            self._spread(lambda r: r.learned_ms),
        ]

    def _spread(self, value: Callable[[Report], float | None]) -> str:
        values = [v for report in self.reports if (v := value(report)) is not None]
        if not values:
            return "-"
        middle, low, high = (
            f"{v:.0f}" for v in (statistics.median(values), min(values), max(values))
        )
        return middle if low == high else f"{middle} ({low} to {high})"


HEAD = (
    *("case", "what", "sent", "lost", "of these, elsewhere"),
    *("downtime", "resume", "outage", "delay", "back", "learned"),
)
TEXT = ("case", "what")


EXCERPT = (
    *SHOWN,
    *("fast", "tcp", "dpdk-rarp", "dpdk-guest"),
)
EXCERPT_COLUMNS = (
    *("what", "sent", "lost", "of these, elsewhere"),
    *("downtime", "resume", "outage", "delay"),
)
BEGIN, END = "<!-- by make migration-report -->\n", "<!-- end -->"


def table(results: Sequence[Played], columns: Sequence[str] = HEAD) -> str:
    """A Markdown table with aligned columns, numbers to the right."""
    chosen = [HEAD.index(column) for column in columns]
    lines = [[line[n] for n in chosen] for line in (HEAD, *(result.row() for result in results))]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    texts = [column in TEXT for column in columns]

    def line(cells: Sequence[str]) -> str:
        each = zip(cells, widths, texts, strict=True)
        return "| " + " | ".join(c.ljust(w) if text else c.rjust(w) for c, w, text in each) + " |"

    rule = ["-" * w if text else "-" * (w - 1) + ":" for w, text in zip(widths, texts, strict=True)]
    return "\n".join(map(line, (lines[0], rule, *lines[1:]))) + "\n"


def play(cases: Sequence[Case], runs: int, screen: Console) -> list[Played]:
    """Play every case so many times, each guest's cases one after the other."""
    results = [Played(case) for case in cases]
    with screen.status("starting") as status, Stages() as stages:
        for result in sorted(results, key=lambda r: (r.case.backend, r.case.announces)):
            for run in range(1, runs + 1):
                words = f"{result.case.name}: {result.case.what}, run {run} of {runs}"
                status.update(words)
                if not screen.is_terminal:
                    screen.print(words)
                result.reports.append(stages.play(result.case))
            screen.print("  ".join(result.row()[2:]))
    return results


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="migration-report", description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names of cases; default: all")
    parser.add_argument("--runs", type=int, default=RUNS, help="of each case")
    parser.add_argument("--output", type=Path, default=DOCS, help="directory to write to")
    options = parser.parse_args(argv)
    if words := packages.missing((*packages.SWITCH, *packages.GUEST, *packages.TEST)):
        print(words, file=sys.stderr)
        return 1
    try:
        cases = [named(name) for name in options.cases] or list(CASES)
    except KeyError as error:
        names = ", ".join(case.name for case in CASES)
        print(f"no case {error}; there are {names}", file=sys.stderr)
        return 1
    try:
        with taken_down():
            results = play(cases, options.runs, Console(stderr=True))
    except LabError as error:
        print(f"migration-report: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    write(results, options.runs, options.output)
    return 0


def write(results: Sequence[Played], runs: int, directory: Path) -> None:
    """Write the page and the plot."""
    times = "" if runs == 1 else f", {runs} times each"
    text = INTRODUCTION.format(runs=times) + table(results) + PLOT
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "migration-report.md").write_text(text)
    plot([(r.case, r.reports[0]) for r in results], directory / "migration-report.svg")
    if directory == DOCS and len(results) == len(CASES):
        excerpt = [result for result in results if result.case.name in EXCERPT]
        before, _, rest = EXCERPT_PAGE.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        EXCERPT_PAGE.write_text(f"{before}{BEGIN}{table(excerpt, EXCERPT_COLUMNS)}{END}{after}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
