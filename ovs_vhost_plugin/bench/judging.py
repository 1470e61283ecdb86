# SPDX-License-Identifier: Apache-2.0
"""Rows of what the benchmarks print as JSON, each with its goal. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Judge = Callable[[Any], Iterator["BenchRow"]]

_RINGS_EACH, _RINGS_MEDIAN = 1.0, 1.15
_QEMU_TAP = "QEMU's tap"
_TCP_GOALS = {
    (True, "veth"): 0.7,
    (True, "ovs-dpdk"): 3.0,
    (False, "ovs-dpdk"): 1.2,
    (True, _QEMU_TAP): 1.2,
    (False, _QEMU_TAP): 1.2,
}
"""With TSO or without, and the peer → the least ratio."""
_PORT_GOALS = {True: (1.3, 1.2), False: (1.1, None)}
"""Whether an io_uring pays here → the least ratio, and the least one per CPU second."""
_LEARNED_GOALS = {"median_ms": 1.3, "p99_ms": 3.0}
_LATENCY_GOALS = {_QEMU_TAP: 1.0}
"""A peer → the largest ratio of our time to its."""
_BURST = 32


@dataclass(frozen=True, slots=True)
class BenchRow:
    """A figure of ours.

    figure   in `unit`; "x" is a ratio of ours to the peer's, the median of neighbouring rounds
    spread   lowest and highest ratio
    least    the goal is reached from here on
    most     the goal is reached up to here
    """

    what: str
    figure: float
    unit: str = "x"
    peer: str = ""
    spread: tuple[float, float] | None = None
    least: float | None = None
    most: float | None = None

    @property
    def goal(self) -> str:
        """The goal as text."""
        if self.least is not None:
            return f">= {self.least:g}"
        return "" if self.most is None else f"<= {self.most:g}"

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None: there is none."""
        if self.least is not None:
            return self.figure >= self.least
        return None if self.most is None else self.figure <= self.most


def rings(results: Sequence[Mapping[str, Any]]) -> Iterator[BenchRow]:
    """The cells of `bench_rings`, and their median."""
    for one in results:
        yield BenchRow(
            f"rings: {one['layout']}, {one['length']} bytes, guest {one['direction']}s",
            one["ratio"],
            peer="net_vhost",
            spread=(one["lowest"], one["highest"]),
            least=_RINGS_EACH,
        )
    if results:
        median = statistics.median(one["ratio"] for one in results)
        yield BenchRow("rings: median", median, peer="net_vhost", least=_RINGS_MEDIAN)


def tap(found: Mapping[str, Any]) -> Iterator[BenchRow]:
    """The full bursts of `bench_tap`."""
    for one in found["written"]:
        if one["burst"] == _BURST and not one["listener"]:
            ratio = one["ratio"]
            yield BenchRow(
                f"guest to tap by io_uring, {one['length']} bytes",
                ratio["ratio"],
                peer="writev",
                spread=(ratio["least"], ratio["most"]),
            )


def port(found: Mapping[str, Any]) -> Iterator[BenchRow]:
    """The cells of `bench_port`: frames a second, and per CPU second of the back-end."""
    for one in found["results"]:
        pairs = "one pair" if one["queues"] == 1 else f"{one['queues']} pairs"
        what = f"{one['direction']}, {one['length']} bytes, {pairs}"
        least, least_per_cpu = _PORT_GOALS[one["io_uring"]]
        spread, per_cpu = (
            (one[f"{name}lowest"], one[f"{name}highest"]) for name in ("", "per_cpu_")
        )
        peer = "net_vhost to net_tap"
        yield BenchRow(what, one["ratio"], peer=peer, spread=spread, least=least)
        what += ", per CPU second"
        yield BenchRow(what, one["per_cpu"], peer=peer, spread=per_cpu, least=least_per_cpu)


def tcp(found: Mapping[str, Any]) -> Iterator[BenchRow]:
    """The streams of `bench_tcp`, beside each peer."""
    for one in found["results"]:
        for peer, (median, low, high) in one["ratios"].items():
            guest = "emulated guest" if peer == _QEMU_TAP else "guest"
            direction = one["direction"].replace("guest", guest)
            yield BenchRow(
                f"TCP {'with' if one['tso'] else 'without'} TSO, {direction}",
                median,
                peer=peer,
                spread=(low, high),
                least=_TCP_GOALS.get((one["tso"], peer)),
            )


def latency(found: Mapping[str, Any]) -> Iterator[BenchRow]:
    """The percentiles of `bench_latency`, beside each peer: less is better."""
    for one in found["results"]:
        for name in ("p50", "p99"):
            if one["beside"] is None:
                yield BenchRow(f"{one['peer']}: request/response, {name}", one[f"{name}_us"], "µs")
                continue
            median, low, high = one[f"{name}_ratio"]
            yield BenchRow(
                f"{one['beside']}: request/response, {name}",
                median,
                "of its time",
                peer=one["peer"],
                spread=(low, high),
                most=_LATENCY_GOALS.get(one["peer"]),
            )


def vms(found: Mapping[str, Any]) -> Iterator[BenchRow]:
    """The streams of `bench_vms`: by the second, and by the CPU second of the host."""
    for one in found["results"]:
        for key, by in (("rate", "a second"), ("per_cpu", "per CPU second")):
            median, low, high = one[f"{key}_ratio"]
            what = f"VM to VM, {one['ours']}: {one['kind']} {by}"
            yield BenchRow(what, median, peer=one["peer"], spread=(low, high))


def moves(found: Mapping[str, Any]) -> Iterator[BenchRow]:
    """The migrations of `bench_moves`: what the worst at each rate lost."""
    lost: dict[tuple[str, int], int] = {}
    for one in found["results"]:
        key = one["backend"], one["rate"]
        lost[key] = max(lost.get(key, 0), one["lost"])
    for (backend, rate), frames in lost.items():
        goal = 0 if backend == "ovs-vhost" else None
        what = f"{backend}: migration at {rate:,} frames/s, lost"
        yield BenchRow(what, frames, "frames", most=goal)


def announcements(found: Mapping[str, Any]) -> Iterator[BenchRow]:
    """The times of `bench_announce`."""
    for backend, times in found["results"].items():
        for name, goal in _LEARNED_GOALS.items():
            what = f"{backend}: announce-self to learned, {name.removesuffix('_ms')}"
            most = goal if backend == "ovs-vhost" else None
            yield BenchRow(what, times["learned"][name], "ms", most=most)


def scale(found: Mapping[str, Any]) -> Iterator[BenchRow]:
    """The figures of `bench_scale` that have a goal."""
    for one in found["results"]:
        if one["goal"] is not None:
            yield BenchRow(one["what"].strip(), one["measured"], one["unit"], most=one["goal"])
