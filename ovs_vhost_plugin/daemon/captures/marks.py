# SPDX-License-Identifier: Apache-2.0
"""The marks of a port's capture: what the daemon sees of the port beside its frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ovs_vhost_plugin.announce.result import Result
from ovs_vhost_plugin.daemon.events import Ended, Event, HandoverEnded, Heard
from ovs_vhost_plugin.daemon.guests.moves import GuestMove, Step
from ovs_vhost_plugin.ipc.captures import CaptureMark
from ovs_vhost_plugin.ipc.reports import PortState, Rarp


class PortMarks:
    """The marks of the port `name`, each once, from `moves` as they are now on."""

    def __init__(self, name: str, status: str, moves: Iterable[GuestMove]) -> None:
        self._name = name
        self._status = status
        self._told: list[tuple[GuestMove, set[Step]]] = []  # by move, which has no hash
        self.of_moves(moves)

    def of_events(self, events: Iterable[Event], now: float) -> Iterator[CaptureMark]:
        """The marks of what the port's workers report, and of their ends."""
        for event in events:
            if event.name != self._name:
                continue
            match event:
                case Heard(_, PortState(status=status)) if status != self._status:
                    yield CaptureMark("status", f"{self._status or 'starting'} -> {status}", now)
                    self._status = status
                case Heard(_, Rarp(mac, at)):
                    yield CaptureMark("announcement", f"SEND_RARP for {mac.hex(':')}", at)
                case HandoverEnded(_, outcome, why, took):
                    words = f"handed over in {took * 1e3:.0f} ms: {outcome}"
                    yield CaptureMark("process", words + (f": {why}" if why else ""), now)
                case Ended(_, fault):
                    self._status = ""
                    yield CaptureMark("process", fault or "the port's process has ended", now)

    def of_moves(self, moves: Iterable[GuestMove]) -> list[CaptureMark]:
        """The marks of steps of migrations that were not told before."""
        mine = [move for move in moves if move.port == self._name]
        before = self._told
        self._told = [(move, set(move.at)) for move in mine]
        marks = []
        for move, steps in self._told:
            known = next((told for other, told in before if other is move), set())
            marks += [
                CaptureMark("migration", f"the guest {move.way}: {step}{_fate(move, step)}", at)
                for step, at in sorted(move.at.items(), key=lambda one: one[1])
                if step in steps - known
            ]
        return marks

    def of_result(self, result: Result) -> Iterator[CaptureMark]:
        """The marks of an announcement that has ended."""
        if result.port != self._name:
            return
        vlan = f" in VLAN {result.vlan}" if result.vlan else ""
        who = f"{result.mac.hex(':')}{vlan}"
        if result.sent_at is not None:
            text = f"{who} announced to the switch ({result.trigger}, {result.frames} frames)"
            yield CaptureMark("announcement", text, result.sent_at)
        at = result.learned_at or result.sent_at or result.received_at
        yield CaptureMark("announcement", result.summary(), at)


def _fate(move: GuestMove, step: Step) -> str:
    if step is not Step.HOLD_OVER:
        return ""
    counts = ", ".join(f"{name} {count}" for name, count in sorted(move.counts.items()) if count)
    return f": {counts}" if counts else ""
