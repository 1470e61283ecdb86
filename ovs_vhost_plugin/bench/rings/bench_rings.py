# SPDX-License-Identifier: Apache-2.0
"""Our compiled rings beside DPDK's, under the same front-end, in turns.

    make bench-rings      or: python -m ovs_vhost_plugin.bench.rings.bench_rings --help

For each layout of the rings two pairs of programs are set up: DPDK's virtio-user with DPDK's
net_vhost, and with our rings (null_port). They run one after the other, in windows of a second,
again and again. A ratio is that of two windows next to each other; the median of all is printed.
Both back-ends copy each packet between guest memory and memory of their own. The front-end counts,
and after each window both ends must have counted the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from ovs_vhost_plugin.bench.hugepages import reserved
from ovs_vhost_plugin.bench.rings.peers import (
    FORWARD,
    FRONT_CORE,
    MEGABYTES,
    BackEnd,
    Counts,
    NetVhost,
    NullPortPeer,
    Pmd,
    await_count,
    prefer,
)
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.takedown import play

# name: entries of each ring, further options of the front-end's device
LAYOUTS = {
    "split 256": (256, ""),
    "split 1024": (1024, ""),
    "packed 256": (256, ",packed_vq=1,in_order=1,mrg_rxbuf=0"),
    "packed 1024": (1024, ",packed_vq=1,in_order=1,mrg_rxbuf=0"),
}
LENGTHS = (64, 1518)
MakeBackEnd = Callable[[Path, Path, str, bool], BackEnd]
BACK_ENDS: dict[str, MakeBackEnd] = {"dpdk": NetVhost, "ours": NullPortPeer}

_SETTLE = 0.1  # seconds
_TESTPMD_BURST = 32
_WIDTH = 100  # of a table that does not go to a terminal


@dataclass(frozen=True, slots=True)
class RingRatio:
    """One line: medians of packets a second, and of the ratios of ours to DPDK's.

    `dpdk_full` and `ours_full`: of the packets that the front-end had to send, the share that found
    the ring full. `in_vain`: of our looks into a ring, the share that found nothing; such a look
    takes a small part of a burst's time. Where the ring was rarely full, and nearly all looks were
    in vain, the front-end was the limit, and no ratio can be much above 1.
    """

    layout: str
    length: int
    direction: str
    dpdk: float
    ours: float
    ratio: float
    lowest: float
    highest: float
    dpdk_full: float
    ours_full: float
    in_vain: float


class Window(NamedTuple):
    """One measurement: packets a second; see RingRatio for the shares."""

    rate: int
    full: float
    in_vain: float


class Side:
    """A front-end and a back-end on one socket."""

    def __init__(self, name: str, layout: str, directory: Path, hugepages: bool) -> None:
        size, options = LAYOUTS[layout]
        self._size = size
        socket = directory / f"{name}.sock"
        prefix = f"ovh-bench-{os.getpid()}-{name}"
        with ExitStack() as stack:
            self.back = BACK_ENDS[name](socket, directory, f"{prefix}-back", hugepages)
            stack.callback(self.back.close)
            self.back.await_start()
            vdev = f"net_virtio_user0,path={socket},queues=1,queue_size={size}{options}"
            self.front = Pmd(
                vdev,
                FRONT_CORE,
                directory=directory,
                prefix=f"{prefix}-front",
                hugepages=hugepages,
                descriptors=size,
            )
            stack.callback(self.front.close)
            self.front.await_start()
            self._closing = stack.pop_all()

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def window(self, direction: str, length: int, seconds: float) -> Window:
        """Measure once; raises RuntimeError if a packet went astray."""
        # A loopback has half a ring under way, so that no side ever finds the other's ring full.
        first = self._size // 2 // _TESTPMD_BURST if direction == "loopback" else 0
        self.back.begin(direction, length)
        self.front.start(FORWARD[direction][0], length, first)
        which = "Tx" if direction == "send" else "Rx"
        time.sleep(_SETTLE)
        self.front.rate(which)
        looks, in_vain = self.back.looks()
        time.sleep(seconds)
        more_looks, more_in_vain = self.back.looks()
        rate = self.front.rate(which)
        front, _ = self._account(direction)
        full = front.dropped / max(1, front.sent + front.dropped)
        return Window(rate, full, (more_in_vain - in_vain) / max(1, more_looks - looks))

    def _account(self, direction: str) -> tuple[Counts, Counts]:
        """Stop; check that each end received the other's packets; return both counts."""
        if direction == "receive":
            back = self.back.end()
            await_count("front-end", self.front, back.sent)
            front = self.front.end()
            came = front.received
        else:
            front = self.front.end()
            await_count("back-end", self.back, front.sent)
            back = self.back.end()
            came = front.received
        if direction == "loopback":
            self.front.start("rxonly", 64)
            await_count("front-end", self.front, back.sent - came)
            came += self.front.end().received
        astray = (
            front.sent - back.received,
            back.sent - came,
            back.received - back.sent - back.dropped if direction == "loopback" else 0,
        )
        if any(astray):
            raise RuntimeError(f"{direction}: packets astray {astray}: {front}, {back}, {came}")
        return front, back


def measure(layout: str, options: argparse.Namespace, hugepages: bool) -> Iterator[RingRatio]:
    """All cases of one layout."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="ovh-bench-")))
        sides = {
            name: stack.enter_context(Side(name, layout, directory, hugepages))
            for name in BACK_ENDS
        }
        for length in LENGTHS:
            for direction in FORWARD:
                if options.only not in f"{layout} {length} {direction}":
                    continue
                rounds = [
                    [side.window(direction, length, options.seconds) for side in sides.values()]
                    for _ in range(options.rounds)
                ]
                yield summary(layout, length, direction, rounds)


def summary(layout: str, length: int, direction: str, rounds: list[list[Window]]) -> RingRatio:
    """Medians of `rounds`, each of DPDK's window and ours."""
    dpdk, ours = (
        Window(*map(statistics.median, zip(*windows, strict=True)))
        for windows in zip(*rounds, strict=True)
    )
    ratios = [b.rate / a.rate for a, b in rounds]
    return RingRatio(
        layout=layout,
        length=length,
        direction=direction,
        dpdk=dpdk.rate,
        ours=ours.rate,
        ratio=statistics.median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
        dpdk_full=dpdk.full,
        ours_full=ours.full,
        in_vain=ours.in_vain,
    )


def table(results: list[RingRatio], hugepages: bool) -> Table:
    """The results as a table for people."""
    title = f"millions of packets a second, {'huge' if hugepages else 'small'} pages"
    shown = Table(title=title)
    for name in ("rings", "bytes", "guest", "DPDK", "ours", "ratio", "from–to", "full", "in vain"):
        shown.add_column(name, no_wrap=True)
    for r in results:
        rates = (f"{r.dpdk / 1e6:.2f}", f"{r.ours / 1e6:.2f}", f"{r.ratio:.2f}")
        spread = f"{r.lowest:.2f}–{r.highest:.2f}"
        full = f"{r.dpdk_full:.0%}, {r.ours_full:.0%}" if r.direction == "send" else ""
        shown.add_row(
            r.layout, str(r.length), r.direction + "s", *rates, spread, full, f"{r.in_vain:.0%}"
        )
    return shown


def main() -> int:
    """Print the ratios; the exit status is 1 where a program is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    parser.add_argument("--rounds", type=int, default=5, help="windows for each back-end")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a window")
    parser.add_argument("--only", default="", help='such as "256 64", "1518 loopback"')
    parser.add_argument("--small-pages", action="store_true", help="no huge pages for either")
    options = parser.parse_args()
    words = packages.missing(packages.TEST, root=False)
    if words or (os.cpu_count() or 1) < 2:
        print(words or "needs two cores", file=sys.stderr)
        return 1
    prefer(os.getpid())
    console = Console(stderr=True)
    results: list[RingRatio] = []
    with reserved(0 if options.small_pages else 4 * MEGABYTES << 20) as free:
        hugepages = free and not options.small_pages
        for layout in LAYOUTS:
            if not any(options.only in f"{layout} {n} {d}" for n in LENGTHS for d in FORWARD):
                continue
            with console.status(layout):
                for result in measure(layout, options, hugepages):
                    results.append(result)
    if options.json:
        print(json.dumps([asdict(result) for result in results], indent=2))
    else:
        shown = Console(width=None if sys.stdout.isatty() else _WIDTH)
        shown.print(table(results, hugepages))
    return 0


if __name__ == "__main__":
    sys.exit(play(main))
