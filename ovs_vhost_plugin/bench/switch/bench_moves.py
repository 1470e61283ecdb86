# SPDX-License-Identifier: Apache-2.0
"""Frames lost in live migrations of the compiled guest, at 1,000 to 100,000 frames a second.

    make bench-moves     or: python -m ovs_vhost_plugin.bench.switch.bench_moves --help

Two hosts and a switch between them, as in the demo. Datagrams are numbered by their sender, behind
the third switch, and counted by a socket in the guest. The userspace datapath reads its cables by
packet sockets, with the default room for some 90 frames; so that default is raised while the
switches start. What is lost there all the same is told apart.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ovs_vhost_plugin.bench.processor import processor
from ovs_vhost_plugin.bench.switch.options import print_json
from ovs_vhost_plugin.lab.guests.movable_compiled import CompiledMovable
from ovs_vhost_plugin.lab.hosts.fabric import CLIENT_ADDRESS, CLIENT_MAC, Fabric
from ovs_vhost_plugin.lab.hosts.host import Host
from ovs_vhost_plugin.lab.measure.paced import PacedFlow
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.takedown import play

OURS, DPDK = "ovs-vhost", "ovs-dpdk"
PORT, UDP_PORT = "vhu0", 7000
MAC, ADDRESS = "52:54:00:00:00:01", "10.0.0.2"
DEFAULT, ROOM = Path("/proc/sys/net/core/rmem_default"), 16 << 20
BEFORE, AFTER = 1.0, 1.5  # seconds of traffic


@dataclass(frozen=True)
class MoveLoss:
    """One migration under traffic, and its frames."""

    backend: str
    rate: int
    sent: int
    lost: int
    """Of those sent, that never came."""
    overruns: int
    """Frames dropped at full packet sockets of the switches: part of `lost`."""
    tap_full: int
    """Frames dropped at a port's full tap: part of `lost`."""
    twice: int
    downtime_ms: float
    held: int


@contextlib.contextmanager
def socket_room() -> Iterator[None]:
    """Give sockets that are made in the context ROOM bytes."""
    before = DEFAULT.read_text()
    DEFAULT.write_text(str(ROOM))
    try:
        yield
    finally:
        DEFAULT.write_text(before)


class MoveCourse:
    """Moves one guest to and fro between two hosts."""

    def __init__(self, fabric: Fabric, guest: CompiledMovable, backend: str) -> None:
        self._fabric, self._guest, self._backend = fabric, guest, backend
        self._here, self._there = fabric.a, fabric.b
        kind = ("type=dpdkvhostuserclient",) if backend == DPDK else ()
        # Without the mirror that the lab has for captures
        self._sockets = {
            host: Host.add_client_port(host, PORT, None, *kind) for host in (fabric.a, fabric.b)
        }
        for host in self._sockets:
            host.wait_ready(PORT)
            host.wait_ofport(PORT)
            # Else the daemon may only forward to the guest what the bridge has learned in time.
            host.switch.vsctl("set", "Interface", PORT, f'external_ids:attached-mac="{MAC}"')
        guest.boot(self._sockets[self._here])
        self._here.wait_running(PORT)
        fabric.set_neighbour(ADDRESS, MAC)
        neighbour = ("ip", "neigh", "replace", CLIENT_ADDRESS, "lladdr", CLIENT_MAC)
        guest.namespace.run(*neighbour, "dev", "eth0", "nud", "permanent")
        fabric.client.ping(ADDRESS, count=1)

    def run(self, rate: int) -> MoveLoss:
        """Migrate once, at `rate` frames a second."""
        fabric, here, there = self._fabric, self._here, self._there
        self._guest.prepare(self._sockets[there])
        dropped, full, held = self._overruns(), self._tap_full(), self._held(here)
        most = round(rate * 60)
        with PacedFlow(
            fabric.client, self._guest.namespace, (ADDRESS, UDP_PORT), rate, most
        ) as flow:
            flow.pass_by(round(rate * BEFORE))
            move = self._guest.migrate()
            flow.pass_by(round(rate * AFTER))
            flow.end()
            lost, twice, sent = flow.lost, flow.twice, flow.sent
        result = MoveLoss(
            self._backend,
            rate,
            sent,
            lost,
            self._overruns() - dropped,
            self._tap_full() - full,
            twice,
            round(move.downtime_ms, 1),
            self._held(here) - held,
        )
        self._here, self._there = there, here
        here.wait_ready(PORT)
        return result

    def _overruns(self) -> int:
        fabric = self._fabric
        return sum(s.overruns() for s in (fabric.physical, fabric.a.switch, fabric.b.switch))

    def _tap_full(self) -> int:
        return sum(host.overruns(PORT) for host in self._sockets)

    def _held(self, host: Host) -> int:
        return 0 if host.daemon is None else int(host.stats(PORT).get("hold", {}).get("held", 0))


def measure(backend: str, rates: Sequence[int], runs: int, screen: Console) -> list[MoveLoss]:
    """Migrate `runs` times at each rate."""
    results = []
    with contextlib.ExitStack() as closing:
        with socket_room():
            fabric = closing.enter_context(Fabric(backend=backend))
        guest = closing.enter_context(CompiledMovable(MAC, ADDRESS))
        course = MoveCourse(fabric, guest, backend)
        for rate in rates:
            for number in range(runs):
                screen.print(f"{backend}: {rate} frames a second, migration {number + 1} of {runs}")
                results.append(course.run(rate))
                screen.print(str(results[-1]))
    return results


def show(results: Sequence[MoveLoss]) -> None:
    """Print the migrations as a table."""
    table = Table(title=f"Live migrations of the compiled guest, {processor()}")
    for heading in (
        "",
        "frames/s",
        "sent",
        "lost",
        "in sockets",
        "at a tap",
        "twice",
        "downtime ms",
    ):
        table.add_column(heading, justify="right" if heading else "left")
    for one in results:
        counts = (one.rate, one.sent, one.lost, one.overruns, one.tap_full, one.twice)
        table.add_row(one.backend, *(f"{count:,}" for count in counts), f"{one.downtime_ms:.1f}")
    Console(width=110).print(table)


def main() -> None:
    """Print the figures, as a table or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rates", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--runs", type=int, default=3, help="at each rate (default: %(default)s)")
    parser.add_argument("--backends", nargs="+", choices=[OURS, DPDK], default=[OURS, DPDK])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    screen = Console(stderr=True, width=160)
    results: list[MoveLoss] = []
    left_out: dict[str, str] = {}
    words = packages.missing([packages.DPDK_SWITCH], root=False)
    if words and DPDK in options.backends:
        screen.print(f"{DPDK} is left out: {words}", markup=False)
        options.backends.remove(DPDK)
        left_out[DPDK] = words
    for backend in options.backends:
        results += measure(backend, options.rates, options.runs, screen)
    if options.json:
        print_json([asdict(result) for result in results], left_out)
    else:
        show(results)


if __name__ == "__main__":
    sys.exit(play(main))
