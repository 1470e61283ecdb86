# SPDX-License-Identifier: Apache-2.0
"""Answers of `vhost/top` in, ports with their rates out. Pure: each answer has its own time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ovs_vhost_plugin.top.happenings import Happening, happenings

AT_ONCE = 64
"""Ports that are asked for in one question, which the daemon bounds so."""

Answer = Mapping[str, Any]

_WAYS = {"leaves": "leaving", "comes": "coming"}
_RINGS = {f"{ring}_ring_{what}" for ring in ("rx", "tx") for what in ("size", "filled")}


@dataclass(frozen=True, slots=True)
class RingFill:
    """How full the rings of a direction are: descriptors that are filled, of `size`."""

    filled: int
    size: int

    @property
    def percent(self) -> int | None:
        """Percent; None: no ring runs, or its worker does not tell."""
        return round(100 * self.filled / self.size) if self.size else None


@dataclass(frozen=True, slots=True)
class PortRow:
    """A port as it is now. Received and transmitted are as the guest sees them.

    status  as in its row, or "leaving" or "coming" while its guest migrates
    rates   counters a second, all queue pairs together, by name; None: not known yet
    totals  the same counters since the port's process began
    rings   the fill of each queue pair's rings: (rx, tx)
    stats   its statistics as `vhost/stats` has them; empty: its worker has told none
    """

    name: str
    bridge: str
    status: str
    error: str
    rates: Mapping[str, float] | None = None
    totals: Mapping[str, int] = field(default_factory=dict)
    rings: Sequence[tuple[RingFill, RingFill]] = ()
    stats: Mapping[str, Any] = field(default_factory=dict)

    def rate(self, counter: str) -> float | None:
        """A rate, also of "rx_bits", "tx_bits", "packets", "bits", "drops" and "kicks"."""
        if self.rates is None:
            return None
        return sum(times * self.rates.get(name, 0.0) for name, times in _parts(counter, self.rates))

    def fill(self, direction: int) -> int | None:
        """Percent of all rings of a direction: 0: rx, 1: tx."""
        rings = [pair[direction] for pair in self.rings]
        return RingFill(sum(r.filled for r in rings), sum(r.size for r in rings)).percent


def _parts(counter: str, names: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The counters that add up to another, each with its factor."""
    match counter:
        case "rx_bits" | "tx_bits":
            return [(counter.replace("bits", "bytes"), 8)]
        case "bits":
            return [("rx_bytes", 8), ("tx_bytes", 8)]
        case "packets" | "kicks":
            return [(f"rx_{counter}", 1), (f"tx_{counter}", 1)]
        case "drops":
            return [(name, 1) for name in names if "_dropped_" in name]
        case _:
            return [(counter, 1)]


@dataclass(slots=True)
class _Seen:
    """The last statistics of a port's, the time they are of, and the rates since those before."""

    at: float
    stats: Mapping[str, Any]
    totals: Counter[str]
    rates: Mapping[str, float] | None


class LivePorts:
    """The ports, as the answers so far have them. `only`: names; empty: all."""

    def __init__(self, only: Sequence[str] = ()) -> None:
        self.standing = ""
        self.events: list[Happening] = []
        """The last announcements and migrations, oldest first."""
        self._only = set(only)
        self._ports: Mapping[str, Mapping[str, str]] = {}
        self._moving: dict[str, str] = {}
        self._seen: dict[str, _Seen] = {}
        self._turn: list[str] = []  # ports that are not shown, in the order of the last question

    def take(self, answer: Answer, asked: Sequence[str] = ()) -> None:
        """Take an answer; a port that was asked for and is not in it has no rates any more."""
        self.standing = answer["standing"]
        ports = answer["ports"].items()
        self._ports = {n: port for n, port in ports if not self._only or n in self._only}
        moves = [move for move in answer["migrations"] if move["end"] == "under-way"]
        self._moving = {move["port"]: _WAYS[move["way"]] for move in moves}
        told = happenings(answer)
        self.events = [one for one in told if not self._only or one.port in self._only]
        silent = set(asked) - answer["stats"].keys()
        for name in [n for n in self._seen if n not in self._ports or n in silent]:
            del self._seen[name]
        for name, stats in answer["stats"].items():
            if name in self._ports:
                self._seen[name] = _look(self._seen.get(name), answer["now"], stats)

    @property
    def names(self) -> list[str]:
        """The names of all ports, in order."""
        return sorted(self._ports)

    def rows(self) -> list[PortRow]:
        """All ports, by name."""
        return [self._row(name) for name in self.names]

    def _row(self, name: str) -> PortRow:
        port, seen = self._ports[name], self._seen.get(name)
        status = self._moving.get(name, port["status"])
        row = PortRow(name, port["bridge"], status, port["error"])
        if seen is None:
            return row
        pairs = seen.stats.get("queue_pairs", ())
        rings = [(_fill(pair, "rx"), _fill(pair, "tx")) for pair in pairs]
        about = row.name, row.bridge, row.status, row.error
        return PortRow(*about, seen.rates, seen.totals, rings, seen.stats)

    def next_question(self, shown: Sequence[str]) -> list[str]:
        """The ports to ask for next: those that are shown, and others in turn."""
        first = [name for name in shown if name in self._ports][:AT_ONCE]
        others = self._ports.keys() - set(first)
        waiting = [name for name in self._turn if name in others]
        waiting += sorted(others - set(waiting))
        room = AT_ONCE - len(first)
        self._turn = waiting[room:] + waiting[:room]
        return first + waiting[:room]


def _look(before: _Seen | None, at: float, stats: Mapping[str, Any]) -> _Seen:
    """The statistics with the rates since the last ones; none if the port's process is another."""
    totals: Counter[str] = Counter()
    for pair in stats.get("queue_pairs", ()):
        totals.update({name: n for name, n in pair.items() if name not in _RINGS})
    seen = _Seen(at, stats, totals, None)
    if before is None or at <= before.at:
        return seen
    grown = {name: count - before.totals[name] for name, count in totals.items()}
    if all(count >= 0 for count in grown.values()):
        seen.rates = {name: count / (at - before.at) for name, count in grown.items()}
    return seen


def _fill(pair: Mapping[str, int], ring: str) -> RingFill:
    return RingFill(pair.get(f"{ring}_ring_filled", 0), pair.get(f"{ring}_ring_size", 0))
