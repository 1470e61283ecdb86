# SPDX-License-Identifier: Apache-2.0
"""TCP through Open vSwitch: guests on our port, beside a veth port, OVS-DPDK and QEMU's own tap.

    make bench-tcp     or: python -m ovs_vhost_plugin.bench.switch.bench_tcp --help

All ends are Linux's own stack, in namespaces, and iperf3. The client is on a veth port of the
switch; the other end is the compiled guest on a vhost-user port, or a second veth port, beyond
which no port of this switch can be. The same guest is on OVS-DPDK's vhost-user port, on a second
switch with the same client. QEMU's guest, whose processor is emulated, is on our port and on a tap
of QEMU's own. Beside the compiled guest, which has split rings and one queue pair, are those with
packed rings and with two pairs. All have their turns in each round; a ratio is that of one round.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from ovs_vhost_plugin.bench.processor import processor
from ovs_vhost_plugin.bench.switch.options import parse_options
from ovs_vhost_plugin.bench.switch.site import BESIDE, KINDS, OURS, SwitchPeer, SwitchSite
from ovs_vhost_plugin.lab.takedown import play

PEERS = BESIDE | dict.fromkeys(KINDS, OURS)
"""A peer, or a guest of another kind → what of ours is compared with it."""
DIRECTIONS = {"to the guest": (), "from the guest": ("--reverse",)}
IPERF_PORT = 5201


@dataclass
class TcpRates:
    """Gb/s by peer, a figure a round."""

    tso: bool
    direction: str
    gbits: dict[str, list[float]] = field(default_factory=dict)

    def ratios(self, peer: str) -> list[float]:
        """Ours in terms of a peer's, by round."""
        ours = self.gbits[PEERS[peer]]
        return [a / b for a, b in zip(ours, self.gbits[peer], strict=True)]

    def as_dict(self) -> dict[str, Any]:
        """Medians and ratios, for JSON."""
        return {
            "tso": self.tso,
            "direction": self.direction,
            "gbits": {peer: round(statistics.median(g), 3) for peer, g in self.gbits.items()},
            "ratios": {
                peer: [round(r, 3) for r in spread(self.ratios(peer))]
                for peer in self.gbits
                if peer in PEERS
            },
        }


def spread(figures: Sequence[float]) -> tuple[float, float, float]:
    """Median, lowest, highest."""
    return statistics.median(figures), min(figures), max(figures)


def stream(peer: SwitchPeer, flags: Sequence[str], seconds: float) -> float:
    """Gb/s that the receiver of one connection has seen."""
    command = ("iperf3", "--client", peer.address, "--port", str(IPERF_PORT), "--json")
    length = ("--time", f"{max(1, round(seconds))}", "--omit", "1")
    answer = json.loads(peer.client.run(*command, *length, *flags))
    return float(answer["end"]["sum_received"]["bits_per_second"]) / 1e9


def measure(tso: bool, rounds: int, seconds: float, wanted: Sequence[str]) -> Iterator[TcpRates]:
    """Streams in each direction, the peers by turns; `seconds` each."""
    with contextlib.ExitStack() as closing:
        site = SwitchSite(closing, tso, wanted)
        for peer in site.peers.values():
            site.serve(peer.guest, f"iperf3 --server --port {IPERF_PORT}", IPERF_PORT)
        for direction, flags in DIRECTIONS.items():
            result = TcpRates(tso, direction, {name: [] for name in site.peers})
            what = f"{'with' if tso else 'without'} TSO, {direction}"
            screen = Console(stderr=True)
            for _ in track(range(rounds), what, console=screen):
                for name, peer in site.peers.items():
                    result.gbits[name].append(stream(peer, flags, seconds))
            yield result


def show(results: Sequence[TcpRates]) -> None:
    """Print the rates as a table."""
    table = Table(title=f"TCP by one connection, Gb/s, {processor()}")
    for heading in ("the switch", "", "", "Gb/s", "beside", "Gb/s", "ratio"):
        table.add_column(heading, justify="right" if heading == "Gb/s" else "left")
    for result in results:
        where = "TSO" if result.tso else "no TSO", result.direction
        for peer in filter(PEERS.__contains__, result.gbits):
            median, low, high = spread(result.ratios(peer))
            ours, its = (f"{statistics.median(result.gbits[n]):.2f}" for n in (PEERS[peer], peer))
            ratio = f"{median:.2f} ({low:.2f}–{high:.2f})"
            table.add_row(*where, PEERS[peer], ours, peer, its, ratio)
    Console(width=110).print(table)


def main() -> None:
    """Print the figures, as a table or as JSON."""
    turn = "stream, after one that is not counted"
    options = parse_options(__doc__, list(PEERS), rounds=5, seconds=3, turn=turn)
    results = [
        result
        for tso in (True, False)
        for result in measure(tso, options.rounds, options.seconds, options.wanted)
    ]
    options.print([result.as_dict() for result in results], lambda: show(results))


if __name__ == "__main__":
    sys.exit(play(main))
