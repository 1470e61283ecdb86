# SPDX-License-Identifier: Apache-2.0
"""A whole port, guest to tap and tap to guest, beside dpdk-testpmd's net_vhost and net_tap.

    make bench-port      or: python -m ovs_vhost_plugin.bench.tap.bench_port --help

The front-end is DPDK's virtio-user, as in bench_rings. To the tap it sends as fast as it can, and
the tap's frames are counted for a window. From the tap, the back-end is stopped, frames are put
into the tap's queues, and it is timed how long the back-end takes to hand them to the guest: with
two processors, nothing that makes frames could run beside front-end and back-end. Both back-ends
have their turns in each round, one processor, and the same front-end.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from ovs_vhost_plugin.bench.hugepages import reserved
from ovs_vhost_plugin.bench.processor import processor
from ovs_vhost_plugin.bench.rings.peers import FRONT_CORE, MEGABYTES, Counts, prefer
from ovs_vhost_plugin.bench.tap.sides import (
    DEPTH,
    Filler,
    NetTap,
    OwnPort,
    TapBackEnd,
    TapCounters,
    front_end,
    processor_time,
    suspended,
)
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import LabError, wait_until
from ovs_vhost_plugin.lab.takedown import play

OURS, PEER = "ovs-vhost", "net_tap"
DIRECTIONS = "guest to tap", "tap to guest"
LENGTHS = 64, 1514
QUEUES = 1, 2
_SETTLE = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class Passed:
    """Frames a second, and frames a second that the back-end has a processor."""

    rate: float
    per_cpu: float


@dataclass(frozen=True, slots=True)
class PortRatio:
    """One line: medians of both sides, and of the ratios of ours to the peer's."""

    direction: str
    length: int
    queues: int
    io_uring: bool
    ours: float
    peer: float
    ratio: float
    lowest: float
    highest: float
    per_cpu: float
    per_cpu_lowest: float
    per_cpu_highest: float


class TapSide:
    """A front-end, a back-end and its tap."""

    def __init__(
        self,
        name: str,
        make: Callable[[ExitStack, Path, Path], TapBackEnd],
        directory: Path,
        queues: int,
        hugepages: bool,
    ) -> None:
        socket = directory / f"{name}.sock"
        with ExitStack() as stack:
            self._front = front_end(directory, name, socket, queues, hugepages)
            stack.callback(self._front.close)
            self.back = make(stack, directory, socket)
            self._front.await_start()
            self.back.connect()
            place, device = self.back.namespace, self.back.device
            place.run("ip", "link", "set", device, "txqueuelen", str(DEPTH))
            self._counters = TapCounters(place, device)
            stack.callback(self._counters.close)
            self._closing = stack.pop_all()

    def __enter__(self) -> TapSide:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def to_tap(self, length: int, seconds: float) -> Passed:
        """The guest sends; raises LabError if a frame of the front-end's does not reach the tap."""
        first, _, _ = self._counters.read()
        with self._forwarding("txonly", length) as front:
            time.sleep(_SETTLE)
            begin, begin_cpu = self._written()
            time.sleep(seconds)
            end, end_cpu = self._written()
            sent = front().sent
            wait_until(lambda: self._counters.read()[0] - first >= sent, "all frames in the tap")
        if (came := self._counters.read()[0] - first) != sent:
            raise LabError(f"guest to tap: {sent} frames sent, {came} written")
        frames = end[0] - begin[0]
        return Passed(frames / (end[1] - begin[1]), frames / (end_cpu - begin_cpu))

    def from_tap(self, length: int, seconds: float) -> Passed:
        """The guest receives what waits in the tap, again and again; some may be dropped."""
        filler = Filler(self.back.namespace, self.back.device, length)
        took = cpu = 0.0
        with self._forwarding("rxonly", 64) as front:
            while took < seconds:
                more, more_cpu = self._drain(filler)
                took, cpu = took + more, cpu + more_cpu
            time.sleep(_SETTLE)
            received = front().received
        filler.close()
        return Passed(received / took, received / cpu)

    @contextmanager
    def _forwarding(self, mode: str, length: int) -> Iterator[Callable[[], Counts]]:
        self.back.begin()
        self._front.start(mode, length)
        try:
            yield self._front.end
        finally:
            self.back.end()

    def _written(self) -> tuple[tuple[int, float], float]:
        """Frames in the tap and when that was; the back-end's time on a processor."""
        written, _, _ = self._counters.read()
        return (written, time.monotonic()), processor_time(self.back.pid)

    def _drain(self, filler: Filler) -> tuple[float, float]:
        """Let the back-end read a full tap; return how long it took, and its processor's time."""
        with suspended(self.back.pid):
            _, before, dropped = self._counters.read()
            filler.put(DEPTH)
            waiting = DEPTH - (self._counters.read()[2] - dropped)
            begin, begin_cpu = time.monotonic(), processor_time(self.back.pid)
        wait_until(
            lambda: self._counters.read()[1] - before >= waiting, "the tap is empty", poll=0.001
        )
        return time.monotonic() - begin, processor_time(self.back.pid) - begin_cpu


def measure(queues: int, options: argparse.Namespace, hugepages: bool) -> Iterator[PortRatio]:
    """All cases of a number of queue pairs."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="ovh-bench-")))

        def own(closing: ExitStack, where: Path, socket: Path) -> OwnPort:
            return OwnPort(closing, where, socket, queues)

        def net_tap(closing: ExitStack, where: Path, socket: Path) -> NetTap:
            return NetTap(closing, where, socket, queues, hugepages)

        ours = stack.enter_context(TapSide(OURS, own, directory, queues, hugepages))
        peer = stack.enter_context(TapSide(PEER, net_tap, directory, queues, hugepages))
        for direction in DIRECTIONS:
            for length in LENGTHS:
                rounds = []
                for _ in range(options.rounds):
                    pair = [
                        (side.to_tap if direction == DIRECTIONS[0] else side.from_tap)(
                            length, options.seconds
                        )
                        for side in (ours, peer)
                    ]
                    rounds.append((pair[0], pair[1]))
                yield summary(direction, length, queues, ours.back.has_uring, rounds)


def summary(
    direction: str,
    length: int,
    queues: int,
    io_uring: bool,
    rounds: Sequence[tuple[Passed, Passed]],
) -> PortRatio:
    """Medians of `rounds`, each of our turn and the peer's."""
    ratios = [ours.rate / peer.rate for ours, peer in rounds]
    per_cpu = [ours.per_cpu / peer.per_cpu for ours, peer in rounds]
    return PortRatio(
        direction=direction,
        length=length,
        queues=queues,
        io_uring=io_uring,
        ours=statistics.median(ours.rate for ours, _ in rounds),
        peer=statistics.median(peer.rate for _, peer in rounds),
        ratio=statistics.median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
        per_cpu=statistics.median(per_cpu),
        per_cpu_lowest=min(per_cpu),
        per_cpu_highest=max(per_cpu),
    )


def show(results: Sequence[PortRatio]) -> None:
    """Print the ratios as a table."""
    uring = "io_uring" if results[0].io_uring else "writev"
    table = Table(title=f"Millions of frames a second, ours by {uring}, {processor()}")
    headings = ("", "bytes", "queue pairs", OURS, PEER, "ratio", "from–to", "per CPU", "from–to")
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    for one in results:
        table.add_row(
            *(one.direction, str(one.length), str(one.queues)),
            *(f"{one.ours / 1e6:.2f}", f"{one.peer / 1e6:.2f}"),
            *(f"{one.ratio:.2f}", f"{one.lowest:.2f}–{one.highest:.2f}"),
            *(f"{one.per_cpu:.2f}", f"{one.per_cpu_lowest:.2f}–{one.per_cpu_highest:.2f}"),
        )
    Console(width=110).print(table)


def main() -> int:
    """Print the figures, as a table or as JSON; the exit status is 1 where a program is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each turn")
    parser.add_argument("--queues", type=int, nargs="+", default=QUEUES, help="queue pairs")
    options = parser.parse_args()
    words = packages.missing((*packages.SWITCH, *packages.TEST))
    if words or (os.cpu_count() or 1) < 2:
        print(words or "needs two processors", file=sys.stderr)
        return 1
    os.sched_setaffinity(0, {FRONT_CORE})
    prefer(os.getpid())
    screen = Console(stderr=True)
    results: list[PortRatio] = []
    with reserved(3 * MEGABYTES << 20) as hugepages:
        for queues in options.queues:
            with screen.status(f"{queues} queue pairs"):
                results += measure(queues, options, hugepages)
    if options.json:
        figures = [asdict(result) for result in results]
        print(json.dumps({"processor": processor(), "results": figures}, indent=2))
    else:
        show(results)
    return 0


if __name__ == "__main__":
    sys.exit(play(main))
