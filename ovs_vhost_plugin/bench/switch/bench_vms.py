# SPDX-License-Identifier: Apache-2.0
"""From one VM to another on the same bridge: small packets and TCP, by the CPU time they cost.

    make bench-vms     or: python -m ovs_vhost_plugin.bench.switch.bench_vms --help

Small packets: the guests are DPDK's virtio-user, which polls, and switch and back-ends have one
core (vm_packets.py). TCP: two compiled guests are on ports of ours, and two on OVS-DPDK, whose
thread polls in its turns. Two guests in QEMU are on ports of ours, and two on taps of QEMU's own;
both streams are theirs. The CPU time is that of the switch and of the back-ends: our workers, and
the threads of QEMU that serve taps. What the guests themselves need is not in it.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from ovs_vhost_plugin.bench.processor import processor
from ovs_vhost_plugin.bench.switch import vm_packets
from ovs_vhost_plugin.bench.switch.options import parse_options
from ovs_vhost_plugin.bench.switch.site import (
    BESIDE,
    DPDK,
    OURS,
    QEMU_OURS,
    QEMU_TAP,
    Guest,
    address,
    compiled_guest,
    dpdk_host,
    qemu_guest,
    serve,
    turn,
)
from ovs_vhost_plugin.bench.switch.vm_packets import PACKETS, Carried
from ovs_vhost_plugin.bench.tap.sides import processor_time, thread_time
from ovs_vhost_plugin.lab.guests.qemu import QemuGuest
from ovs_vhost_plugin.lab.hosts.host import Host
from ovs_vhost_plugin.lab.takedown import play

IPERF_PORT = 5201
STREAMS = {
    PACKETS: ("--udp", "--bitrate", "0", "--length", "18"),
    "TCP": (),
}
"""18 bytes of UDP make the shortest frame of Ethernet."""
UNITS = {PACKETS: "packets", "TCP": "Gb"}


@dataclass(frozen=True, slots=True)
class VmPair:
    """Two guests of one switch; `spent` are the CPU seconds of switch and back-ends so far."""

    sender: Guest
    receiver: str
    host: Host
    spent: Callable[[], float]


class VmSite:
    """Switches with two guests each, of the kinds `wanted`. All take large segments."""

    def __init__(self, closing: contextlib.ExitStack, wanted: Sequence[str]) -> None:
        self._closing = closing
        self._directory = Path(
            closing.enter_context(tempfile.TemporaryDirectory(prefix="ovs-vhost-"))
        )
        self.pairs: dict[str, VmPair] = {}
        host = closing.enter_context(Host("v", self._directory / "v", userspace_tso=True))
        self.pairs[OURS] = self._pair(host, (2, 3), self._compiled(host, (2, 3)), workers=True)
        if DPDK in wanted:
            other = closing.enter_context(dpdk_host(self._directory / "d", tso=True))
            guests = self._compiled(other, (2, 3))
            self.pairs[DPDK] = self._pair(other, (2, 3), guests, workers=False)
        for name, numbers in ((QEMU_OURS, (4, 5)), (QEMU_TAP, (6, 7))):
            if name in wanted:
                tap = name == QEMU_TAP
                guests = [
                    qemu_guest(closing, self._directory, host, number, tap=tap, tso=True)
                    for number in numbers
                ]
                self.pairs[name] = self._pair(host, numbers, guests, workers=not tap)

    def _compiled(self, host: Host, numbers: Sequence[int]) -> list[Guest]:
        return [compiled_guest(self._closing, self._directory, host, n) for n in numbers]

    def _pair(
        self, host: Host, numbers: Sequence[int], guests: Sequence[Guest], *, workers: bool
    ) -> VmPair:
        """The guests of these numbers, on ports that have `workers`, or have none."""
        sender, receiver = guests
        assert host.switch.vswitchd is not None
        whole = [host.switch.vswitchd.pid]
        if workers:
            whole += [host.worker_pid(f"vhu{number}") for number in numbers]
        mains = [guest.process.pid for guest in guests if isinstance(guest, QemuGuest)]
        command = f"iperf3 --server --port {IPERF_PORT}"
        serve(self._closing, self._directory, receiver, command, IPERF_PORT)

        def spent() -> float:
            return sum(map(processor_time, whole)) + sum(thread_time(pid, pid) for pid in mains)

        return VmPair(sender, address(numbers[1]), host, spent)


def stream(pair: VmPair, kind: str, seconds: float) -> Carried:
    """Send from one guest to the other."""
    words = ["iperf3", "--client", pair.receiver, "--port", str(IPERF_PORT), "--json"]
    words += [*STREAMS[kind], "--time", str(max(1, round(seconds)))]
    before = pair.spent()
    if isinstance(pair.sender, QemuGuest):
        said = pair.sender.run(" ".join(words), seconds=seconds + 60)
    else:
        said = pair.sender.run(*words)
    cpu = pair.spent() - before
    end = json.loads(said)["end"]
    if kind == "TCP":
        amount = end["sum_received"]["bytes"] * 8 / 1e9
    else:
        amount = end["sum"]["packets"] - end["sum"]["lost_packets"]
    took = end["sum_sent" if kind == "TCP" else "sum"]["seconds"]
    return Carried(amount / took, amount / cpu)


Rounds = Mapping[tuple[str, str], Sequence[Carried]]
"""A kind of stream and a peer → its turns."""


def measure(rounds: int, seconds: float, wanted: Sequence[str], screen: Console) -> Rounds:
    """Measure packets and streams, the peers by turns; `seconds` each."""
    found: dict[tuple[str, str], list[Carried]] = {}
    for name, carried in vm_packets.measure(rounds, seconds, wanted, screen):
        found.setdefault((PACKETS, name), []).append(carried)
    with contextlib.ExitStack() as closing:
        site = VmSite(closing, wanted)
        for kind in STREAMS:
            for _ in track(range(rounds), f"VM to VM, {kind}", console=screen):
                for name, pair in site.pairs.items():
                    if kind == PACKETS and not isinstance(pair.sender, QemuGuest):
                        continue  # at a rate that guests of Linux's stack do not reach
                    with turn(pair.host):
                        found.setdefault((kind, name), []).append(stream(pair, kind, seconds))
    return found


def summary(rounds: Rounds) -> Iterator[dict[str, Any]]:
    """A row for each peer: medians, and ratios of ours to the peer's (median, lowest, highest)."""
    for (kind, peer), theirs in rounds.items():
        if peer not in BESIDE:
            continue
        row: dict[str, Any] = {"kind": kind, "unit": UNITS[kind]}
        row |= {"ours": BESIDE[peer], "peer": peer}
        ours = rounds[kind, BESIDE[peer]]
        for key in ("rate", "per_cpu"):
            pairs = [(getattr(a, key), getattr(b, key)) for a, b in zip(ours, theirs, strict=True)]
            ratios = [a / b for a, b in pairs]
            row[f"ours_{key}"], row[f"peer_{key}"] = (
                statistics.median(figures) for figures in zip(*pairs, strict=True)
            )
            row[f"{key}_ratio"] = [statistics.median(ratios), min(ratios), max(ratios)]
        yield row


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows as a table."""
    table = Table(title=f"From VM to VM on one bridge, {processor()}")
    for heading in ("", "", "", "ours", "peer", "ratio"):
        table.add_column(heading, justify="right" if heading in ("ours", "peer") else "left")
    for row in rows:
        for key, by in (("rate", "a second"), ("per_cpu", "per CPU second")):
            table.add_row(
                *(f"{row['kind']}, {row['unit']} {by}", row["ours"], row["peer"]),
                *(_figure(row[f"{side}_{key}"]) for side in ("ours", "peer")),
                "{:.2f} ({:.2f}–{:.2f})".format(*row[f"{key}_ratio"]),
            )
    Console(width=110).print(table)


def _figure(figure: float) -> str:
    return f"{figure:,.0f}" if figure > 1000 else f"{figure:.2f}"


def main() -> None:
    """Print the figures, as a table or as JSON."""
    options = parse_options(__doc__, [DPDK, QEMU_TAP], rounds=5, seconds=3, turn="stream")
    found = measure(options.rounds, options.seconds, options.wanted, options.screen)
    rows = list(summary(found))
    options.print(rows, lambda: show(rows))


if __name__ == "__main__":
    sys.exit(play(main))
