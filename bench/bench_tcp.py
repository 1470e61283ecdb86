# SPDX-License-Identifier: Apache-2.0
"""TCP through Open vSwitch: the compiled guest on our port, beside a veth port and OVS-DPDK.

    make bench-tcp     or: python -m bench.bench_tcp --help

All ends are Linux's own stack, in namespaces, and iperf3. The client is on a veth port of the
switch; the other end is the compiled guest on a vhost-user port, or a second veth port, beyond
which no port of this switch can be. The same guest is on OVS-DPDK's vhost-user port, on a second
switch with the same client. They have their turns in each round, and a ratio is that of one round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.processor import processor
from ovs_vhost_plugin.lab.guests.compiled import CompiledNamespace
from ovs_vhost_plugin.lab.hosts.dpdk import DpdkHost
from ovs_vhost_plugin.lab.hosts.fabric import finish_checksums
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.hosts.namespace import Namespace, veth
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import wait_until

PORT = "vhu0"
OURS, VETH, DPDK = "ovs-vhost", "veth", "ovs-dpdk"
DIRECTIONS = {"to the guest": (), "from the guest": ("--reverse",)}
IPERF_PORT = "5201"


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to measure: a client, and the address of its other end."""

    client: Namespace
    address: str


@dataclass
class Result:
    """Gb/s by peer, a figure a round."""

    tso: bool
    direction: str
    gbits: dict[str, list[float]] = field(default_factory=dict)

    def ratios(self, peer: str) -> list[float]:
        """Ours in terms of a peer's, by round."""
        return [a / b for a, b in zip(self.gbits[OURS], self.gbits[peer], strict=True)]

    def as_dict(self) -> dict[str, Any]:
        return {
            "tso": self.tso,
            "direction": self.direction,
            "gbits": {peer: round(statistics.median(g), 3) for peer, g in self.gbits.items()},
            "ratios": {
                peer: [round(r, 3) for r in spread(self.ratios(peer))]
                for peer in self.gbits
                if peer != OURS
            },
        }


def spread(figures: Sequence[float]) -> tuple[float, float, float]:
    """Median, lowest, highest."""
    return statistics.median(figures), min(figures), max(figures)


class Site:
    """Switches with or without userspace-tso-enable, with a guest on each."""

    def __init__(self, closing: contextlib.ExitStack, tso: bool, wanted: Sequence[str]) -> None:
        self._closing = closing
        self._tso = tso
        self._top = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="ovs-vhost-")))
        self.peers: dict[str, Peer] = {}
        host = closing.enter_context(Host("v", self._top / "v", userspace_tso=tso))
        client = self._cable(host, "client", "c0", "10.0.0.1/24")
        path = host.add_client_port(PORT)
        host.wait_ready(PORT)
        self.peers[OURS] = self._guest(host, client, path)
        if VETH in wanted:
            self._serve(self._cable(host, "plain", "p0", "10.0.0.3/24"))
            self.peers[VETH] = Peer(client, "10.0.0.3")
        if DPDK in wanted:
            other = closing.enter_context(
                DpdkHost("d", self._top / "d", userspace_tso=tso, daemon=False)
            )
            client = self._cable(other, "dclient", "c0", "10.0.0.1/24")
            # Without the mirror that the lab has for captures
            path = Host.add_client_port(other, PORT, None, "type=dpdkvhostuserclient")
            other.wait_ready(PORT)
            self.peers[DPDK] = self._guest(other, client, path)
        for peer in self.peers.values():
            peer.client.ping(peer.address)

    def _guest(self, host: Host, client: Namespace, path: Path) -> Peer:
        guest = CompiledNamespace(
            f"vm{host.label}", path, self._top, "10.0.0.2/24", ("--size", "1024")
        )
        self._closing.enter_context(guest)
        guest.wait_running()
        host.wait_running(PORT)
        self._serve(guest.namespace)
        return Peer(client, "10.0.0.2")

    def _cable(self, host: Host, label: str, port: str, address: str) -> Namespace:
        namespace = self._closing.enter_context(Namespace(label))
        veth(namespace, "eth0", host.namespace, port)
        namespace.address("eth0", address)
        if not self._tso:
            for place, device in ((namespace, "eth0"), (host.namespace, port)):
                finish_checksums(place, device)
        host.switch.add_port(BRIDGE, port)
        return namespace

    def _serve(self, namespace: Namespace) -> None:
        command = ["iperf3", "--server", "--port", IPERF_PORT]
        server = namespace.start(command, self._top / f"{namespace.name}.iperf3")
        self._closing.callback(server.stop)
        shown = ("ss", "--listening", "--tcp", "--numeric", "--no-header")
        wait_until(lambda: f":{IPERF_PORT} " in namespace.run(*shown), "iperf3 listens")


def stream(peer: Peer, flags: Sequence[str], seconds: float) -> float:
    """Gb/s that the receiver of one connection has seen."""
    command = ("iperf3", "--client", peer.address, "--port", IPERF_PORT, "--json")
    length = ("--time", f"{max(1, round(seconds))}", "--omit", "1")
    answer = json.loads(peer.client.run(*command, *length, *flags))
    return float(answer["end"]["sum_received"]["bits_per_second"]) / 1e9


def measure(tso: bool, rounds: int, seconds: float, wanted: Sequence[str]) -> Iterator[Result]:
    with contextlib.ExitStack() as closing:
        site = Site(closing, tso, wanted)
        for direction, flags in DIRECTIONS.items():
            result = Result(tso, direction, {name: [] for name in site.peers})
            what = f"{'with' if tso else 'without'} TSO, {direction}"
            screen = Console(stderr=True)
            for _ in track(range(rounds), what, console=screen):
                for name, peer in site.peers.items():
                    result.gbits[name].append(stream(peer, flags, seconds))
            yield result


def show(results: Sequence[Result]) -> None:
    peers = [peer for peer in (VETH, DPDK) if peer in results[0].gbits]
    table = Table(title=f"TCP by one connection, Gb/s, {processor()}")
    for heading in ("the switch", "", OURS, *(h for peer in peers for h in (peer, "ratio"))):
        table.add_column(heading, justify="right" if heading else "left")
    for result in results:
        row = ["TSO" if result.tso else "no TSO", result.direction]
        row.append(f"{statistics.median(result.gbits[OURS]):.2f}")
        for peer in peers:
            median, low, high = spread(result.ratios(peer))
            row.append(f"{statistics.median(result.gbits[peer]):.2f}")
            row.append(f"{median:.2f} ({low:.2f}–{high:.2f})")
        table.add_row(*row)
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=3, help="of each stream, after one that is not counted"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--without", nargs="*", default=[], choices=[VETH, DPDK], metavar="PEER")
    options = parser.parse_args()
    wanted = [peer for peer in (VETH, DPDK) if peer not in options.without]
    screen = Console(stderr=True)
    if DPDK in wanted and not packages.DPDK_SWITCH.present:
        screen.print(f"{DPDK} is skipped: {packages.missing([packages.DPDK_SWITCH], root=False)}")
        wanted.remove(DPDK)
    results = [
        result
        for tso in (True, False)
        for result in measure(tso, options.rounds, options.seconds, wanted)
    ]
    if options.json:
        figures = [result.as_dict() for result in results]
        print(json.dumps({"processor": processor(), "results": figures}, indent=2))
    else:
        show(results)


if __name__ == "__main__":
    main()
