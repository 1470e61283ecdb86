# SPDX-License-Identifier: Apache-2.0
"""Observations of one migration, and their interpretation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ovs_vhost_plugin.announce.frames.announcements import ETH_P_ARP, ETH_P_RARP
from ovs_vhost_plugin.lab.guests.movable import Move
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, CONFIRMED
from ovs_vhost_plugin.lab.measure.capture import Capture, Frame
from ovs_vhost_plugin.lab.measure.timeline import (
    Mark,
    Report,
    deliveries,
    duplicates,
    longest_gap,
    overtaken,
)

_LAST_SECONDS = 0.5
"""Of the flow: a guest that is slow may lose all that comes within some hundredths of one."""


@dataclass
class Evidence:
    """The evidence of one migration, not yet interpreted.

    `source` and `destination` are the hosts' names, `taps` the frames at the guest's port on
    either, `uplinks` the frames at their uplinks. `sent_at` is the time at which each frame of the
    traffic was sent, `number` gives the number of a frame on a tap, `arrived` are the numbers that
    the guest itself reports, in this order; None: it reports none. `overruns` counts frames dropped
    at a full tap, whose guest is slow, `congestion` frames that a switch did not read in time.
    `announcing` is the destination's back-end's report of its first announcement.
    """

    moved: Move
    source: str
    destination: str
    mac: bytes
    sent_at: Mapping[int, float]
    number: Callable[[Frame], int | None]
    arrived: list[int] | None
    damaged: int
    taps: tuple[list[Frame], list[Frame]]
    uplinks: tuple[list[Frame], list[Frame]]
    overruns: int
    congestion: int
    local_learned: float | None
    physical_learned: float | None
    announcing: list[Mark]

    def report(self, kind: str, announce: str) -> Report:
        """The report on the guest and its traffic."""
        moved = self.moved
        source, destination = (self._passed(frames) for frames in self.taps)
        left = self._passed(self.uplinks[0])
        arrived = self._came_by(source, destination) if self.arrived is None else self.arrived
        delivered = deliveries(
            arrived,
            source,
            destination,
            stopped=moved.source_stopped,
            resumed=moved.destination_resumed,
        )
        times = sorted(delivered.values())
        delays = (at - self.sent_at[number] for number, at in delivered.items())
        after = [at for at in times if at >= moved.destination_resumed]
        order = {n: i for i, n in enumerate(sorted(self.sent_at, key=self.sent_at.__getitem__))}
        lost = order.keys() - set(arrived)
        last = max(self.sent_at.values(), default=0.0) - _LAST_SECONDS
        return Report(
            guest=kind,
            announce=announce,
            stopped=moved.source_stopped,
            resumed=moved.destination_resumed,
            marks=tuple(self._marks(after[0] if after else None)),
            sent=len(order),
            lost=len(lost),
            damaged=self.damaged,
            duplicated=len(duplicates(arrived)),
            unseen=sum(n not in destination and (n in left or n not in source) for n in lost),
            overrun=self.overruns,
            congested=self.congestion,
            reordered=overtaken(order[number] for number in arrived),
            delay_ms=max(delays, default=0.0) * 1e3,
            outage_ms=longest_gap([at for at in times if at >= moved.started]) * 1e3,
            downtime_ms=moved.downtime_ms,
            found=bool(after) and any(self.sent_at.get(n, 0.0) >= last for n in arrived),
            learned_ms=self._learned_ms(),
            received=tuple(times),
        )

    def _passed(self, frames: list[Frame]) -> dict[int, float]:
        """The time at which each frame of the traffic was sent into a device, to the guest."""
        passed: dict[int, float] = {}
        for frame in frames:
            number = self.number(frame) if frame.outgoing else None
            if number is not None and number in self.sent_at:
                passed.setdefault(number, frame.at)
        return passed

    def _came_by(self, source: Mapping[int, float], destination: Mapping[int, float]) -> list[int]:
        """The frames that a guest must have received, by the tap of the host on which it ran."""
        stopped = self.moved.source_stopped
        return [n for n, at in source.items() if at < stopped] + [
            n for n in destination if source.get(n, stopped) >= stopped
        ]

    def _marks(self, first_through: float | None) -> Iterator[Mark]:
        moved, source, destination = self.moved, self.source, self.destination
        yield Mark(moved.started, "migration starts", source)
        yield Mark(moved.source_stopped, "guest stopped", source)
        yield Mark(moved.destination_resumed, "guest runs", destination)
        yield Mark(moved.completed, "migration completed", source)
        yield from self._announcement_marks()
        learned = "guest's MAC learned"
        yield from _mark(self.local_learned, learned, f"{BRIDGE} of {destination}")
        yield from _mark(self.physical_learned, learned, "physical switch")
        yield from _mark(first_through, "first packet through", destination)

    def _announcement_marks(self) -> Iterator[Mark]:
        yield from self.announcing
        yield from _mark(self._guests_own(), "guest announces itself (ARP)", self.destination)
        for ethertype, name in ((ETH_P_RARP, "RARP"), (ETH_P_ARP, "ARP")):
            sent = (frame for frame in self.uplinks[1] if frame.outgoing)
            left = self._first_announcement(sent, ethertype)
            yield from _mark(left, f"{name} leaves the host", f"uplink of {self.destination}")

    def _learned_ms(self) -> float | None:
        """Time from the announcement's request until the destination's bridge has learned the MAC.

        Both the watch and the back-end see their end somewhat late.
        """
        asked = [*(mark.at for mark in self.announcing[:1]), *_known(self._guests_own())]
        confirmed = [mark.at for mark in self.announcing if mark.what == CONFIRMED]
        learned = [*confirmed, *_known(self.local_learned)]
        return 1e3 * (min(learned) - min(asked)) if learned and asked else None

    def _guests_own(self) -> float | None:
        return self._first_announcement(self.taps[1], ETH_P_ARP)

    def _first_announcement(self, frames: Iterable[Frame], ethertype: int) -> float | None:
        found = (
            frame.at
            for frame in frames
            if frame.ethertype == ethertype
            and frame.data[6:12] == self.mac
            and frame.at >= self.moved.started
        )
        return next(found, None)


def merged(captures: Sequence[Capture]) -> list[Frame]:
    """The frames of several captures in the order of their times."""
    frames = (frame for capture in captures for frame in capture.frames())
    return sorted(frames, key=lambda frame: frame.at)


def _mark(at: float | None, what: str, where: str) -> Iterator[Mark]:
    return (Mark(time, what, where) for time in _known(at))


def _known(at: float | None) -> list[float]:
    return [] if at is None else [at]
