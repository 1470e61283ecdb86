# SPDX-License-Identifier: Apache-2.0
"""The moves of guests that this host has seen: each as the times of its events.

A guest that leaves is seen by its worker's reports (dirty logging, the hold) and by the bridge,
which has it on another port. A guest that comes is seen by the request to announce it, its rings,
the switch's answer and its first frame. A host sees only its own side of a move.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ovs_vhost_plugin.announce.result import Result
from ovs_vhost_plugin.announce.triggers import Trigger
from ovs_vhost_plugin.common.history import History
from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.daemon.events import Ended, Event, Heard
from ovs_vhost_plugin.forward.hold import Record
from ovs_vhost_plugin.ipc.reports import FirstReceived, HoldState, PortState, Started
from ovs_vhost_plugin.metrics.histogram import Histogram
from ovs_vhost_plugin.net.station import StationKey
from ovs_vhost_plugin.vhost.spec import Feature

vlog = Vlog("vhost_moves")

MOST_STATIONS = 64
"""Stations whose announcement or place is kept of a move."""

_ARRIVAL_TRIGGERS = {Trigger.SEND_RARP, Trigger.MOVED_IN, Trigger.GUEST_SILENT}


class Way(StrEnum):
    """Whether a guest leaves this host or comes to it."""

    LEAVES = "leaves"
    COMES = "comes"


class Step(StrEnum):
    """The events of a move, in the order in which they usually happen."""

    # of a guest that leaves
    LOGGED = "memory-is-copied"  # its front-end has set LOG_ALL
    STOPPED = "rings-stopped"
    FOUND = "found-elsewhere"  # the bridge has a MAC of its on another port
    FORWARDED = "first-frame-forwarded"
    RETURNED = "rings-run-again"  # here: the migration has failed
    KEPT = "memory-is-not-copied"  # and its rings have not stopped: the migration was given up
    # of a guest that comes
    ASKED = "announcement-asked-for"
    STARTED = "rings-run"
    ANNOUNCED = "announced"
    LEARNED = "learned"
    RECEIVED = "first-frame-received"
    # of either
    HOLD_OVER = "hold-over"
    GONE = "front-end-gone"


class MoveEnd(StrEnum):
    """The state of a move, or how it ended."""

    UNDER_WAY = "under-way"
    LEFT = "left"
    STAYED = "stayed"
    CAME = "came"
    NOT_COME = "did-not-come"


@dataclass(slots=True)
class GuestMove:
    """One move as far as it is known here.

    at            CLOCK_MONOTONIC seconds of each step that has happened, the first time
    trigger       what asked for the announcement of a guest that comes
    counts        the fate of the frames that were held, by name
    places        the port where the bridge found each station
    announced     the last result of the announcement of each station
    """

    port: str
    way: Way
    at: dict[Step, float] = field(default_factory=dict)
    trigger: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    announced: dict[str, str] = field(default_factory=dict)

    def note(self, step: Step, at: float) -> None:
        """Note the first time of a step."""
        self.at.setdefault(step, at)

    @property
    def end(self) -> MoveEnd:
        """How it ended, if it did."""
        at = self.at
        if self.way is Way.COMES:
            if Step.STARTED in at:
                return MoveEnd.CAME
            return MoveEnd.NOT_COME if Step.GONE in at else MoveEnd.UNDER_WAY
        if Step.RETURNED in at or Step.KEPT in at:
            return MoveEnd.STAYED
        gone = at.keys() & {Step.FOUND, Step.HOLD_OVER, Step.GONE}
        return MoveEnd.LEFT if gone else MoveEnd.UNDER_WAY

    @property
    def outage(self) -> float | None:
        """Seconds without a network, as far as this host can tell; None: it cannot.

        Of a guest that leaves: from the stop of its rings until the bridge has it elsewhere, or
        until its rings run here again. Of one that comes: from the start of its rings until its
        first frame; the time before is the other host's to tell.
        """
        if self.way is Way.COMES:
            return self._between(Step.STARTED, Step.RECEIVED)
        found = self._between(Step.STOPPED, Step.FOUND)
        return self.downtime if found is None else found

    @property
    def downtime(self) -> float | None:
        """Seconds in which the rings stood still, which is known of a guest that stayed."""
        return self._between(Step.STOPPED, Step.RETURNED)

    @property
    def lost(self) -> int | None:
        """Frames that came for it here and reached nobody, None while that is not known.

        Frames to groups that were held are not lost: every port got its own copy.
        """
        if Step.HOLD_OVER not in self.at:
            return None
        fates = self.counts.items()
        lost = [n for k, n in fates if k.startswith(("dropped_", "refused_"))]
        return sum(lost) - self.counts.get("dropped_group", 0)

    def as_dict(self) -> dict[str, Any]:
        """Plain values: times in CLOCK_MONOTONIC seconds, spans in milliseconds."""
        return {
            "port": self.port,
            "way": self.way.value,
            "end": self.end.value,
            "trigger": self.trigger,
            "timeline": [
                {"at": at, "ms": (at - self._zero) * 1e3, "event": step.value}
                for step, at in sorted(self.at.items(), key=lambda one: one[1])
            ],
            "downtime_ms": _milliseconds(self.downtime),
            "outage_ms": _milliseconds(self.outage),
            "lost": self.lost,
            "held": dict(self.counts),
            "places": dict(self.places),
            "announced": dict(self.announced),
        }

    @property
    def _zero(self) -> float:
        """The time from which milliseconds count: as the guest's network stops, or begins."""
        first = Step.STOPPED if self.way is Way.LEAVES else Step.STARTED
        return self.at.get(first, min(self.at.values()))

    def _between(self, first: Step, then: Step) -> float | None:
        at = self.at
        return max(0.0, at[then] - at[first]) if first in at and then in at else None


@dataclass(slots=True)
class _Guest:
    """The guest of a port: its last reports, and its moves that are still told of."""

    status: str = ""
    migrates: bool = False
    started: float | None = None  # its rings, on this connection
    received: float | None = None
    leaving: GuestMove | None = None
    coming: GuestMove | None = None


class Moves:
    """The moves of all ports; times are told.

    outages  of each way, as far as they are known
    changed  whether there is more to tell than when somebody set it to False
    """

    def __init__(self) -> None:
        self.changed = False
        self.history: History[GuestMove] = History()
        self.outages = {way: Histogram() for way in Way}
        self._guests: dict[str, _Guest] = {}

    def log(self) -> list[dict[str, Any]]:
        """The last moves, oldest first, also those under way, as plain values."""
        return [move.as_dict() for move in self.history]

    def recall(self, moves: Iterable[GuestMove]) -> None:
        """Take over the moves that an earlier daemon saw, and go on with those under way."""
        for move in moves:
            self.history.append(move)
            if move.end is not MoveEnd.UNDER_WAY:
                continue
            guest = self._guest(move.port)
            if move.way is Way.COMES:
                guest.coming = move
            else:
                guest.leaving, guest.migrates = move, True

    # -- reports of workers ----------------------------------------------------------------------

    def take(self, events: Iterable[Event], now: float) -> None:
        """Take the workers' reports."""
        for event in events:
            match event:
                case Heard(name, PortState() as state):
                    self._state(name, state, now)
                case Heard(name, Started(at=at)):
                    self._started(name, at or now)
                case Heard(name, FirstReceived(at)):
                    self._received(name, at)
                case Heard(name, HoldState(active=True, since=since)):
                    self._stopped(name, since or now)
                case Ended(name):
                    self._gone(name, now)
                    self._guests.pop(name, None)

    def _state(self, name: str, state: PortState, now: float) -> None:
        guest = self._guest(name)
        ran, guest.status = guest.status == "running", state.status
        migrated, guest.migrates = guest.migrates, state.has(Feature.LOG_ALL.mask)
        if state.status not in ("running", "connected"):
            self._gone(name, now)
            return
        if guest.migrates and not migrated:
            guest.leaving = self._begin(name, Way.LEAVES, Step.LOGGED, now)
            _log(guest.leaving, Step.LOGGED)
        if ran and state.status != "running" and guest.migrates:
            self._stopped(name, now)
        move = guest.leaving
        if migrated and not guest.migrates and move is not None and Step.STOPPED not in move.at:
            self._note(move, Step.KEPT, now)

    def _stopped(self, name: str, at: float) -> None:
        """Its rings have stopped, at the earliest time that is told: a hold knows, a status not."""
        move = self._guest(name).leaving
        if move is not None and Step.RETURNED not in move.at:
            move.at[Step.STOPPED] = min(at, move.at.get(Step.STOPPED, at))
            # Dated by when it was heard, which may be together with the stop.
            move.at[Step.LOGGED] = min(at, move.at.get(Step.LOGGED, at))
            self.changed = True

    def _started(self, name: str, at: float) -> None:
        guest = self._guest(name)
        guest.started, guest.received = at, None
        if guest.coming is not None:
            self._note(guest.coming, Step.STARTED, at)
        if (move := guest.leaving) is not None and Step.STOPPED in move.at:
            self._note(move, Step.RETURNED, at)

    def _received(self, name: str, at: float) -> None:
        guest = self._guest(name)
        guest.received = at
        for move in (guest.coming, guest.leaving):
            if move is not None and (Step.STARTED in move.at or Step.RETURNED in move.at):
                self._note(move, Step.RECEIVED, at)

    def _gone(self, name: str, now: float) -> None:
        """The front-end or the worker has gone: what comes next is another guest's."""
        guest = self._guest(name)
        for move in (guest.leaving, guest.coming):
            if move is not None:
                self._note(move, Step.GONE, now)
        # Its hold may go on, and is the only thing that is still told of it.
        self._guests[name] = _Guest(guest.status)

    # -- what the daemon does --------------------------------------------------------------------

    def arrived(self, name: str, trigger: str, at: float) -> None:
        """A guest has come from elsewhere, or is about to run."""
        guest = self._guest(name)
        if guest.coming is None:
            guest.coming = self._begin(name, Way.COMES, Step.ASKED, at)
            guest.coming.trigger = trigger
            _log(guest.coming, f"{Step.ASKED}: {trigger}")
        for step, known in ((Step.STARTED, guest.started), (Step.RECEIVED, guest.received)):
            if known is not None:
                self._note(guest.coming, step, known)

    def announced(self, result: Result) -> bool:
        """Take the result of an announcement; whether it tells more than the one before.

        An arrival has several: front-ends and the guests' rounds repeat what may have been lost.
        """
        guest = self._guests.get(result.port)
        if guest is None or guest.coming is None or result.trigger not in _ARRIVAL_TRIGGERS:
            return True
        move = guest.coming
        station, outcome = StationKey(result.mac, result.vlan).encode(), result.outcome.value
        is_news = move.announced.get(station) != outcome
        self.changed |= is_news
        _keep(move.announced, station, outcome)
        for step, at in ((Step.ANNOUNCED, result.sent_at), (Step.LEARNED, result.learned_at)):
            if at is not None:
                self._note(move, step, at)
        return is_news

    def found(self, name: str, places: Mapping[str, int], now: float) -> None:
        """The bridge has stations of a guest that has left on other ports."""
        if (move := self._last_that_left(name)) is not None:
            self._note(move, Step.FOUND, now)
            for station, port in places.items():
                _keep(move.places, station, port)

    def forwarded(self, name: str, now: float) -> None:
        """Held frames were sent on."""
        if (move := self._last_that_left(name)) is not None:
            self._note(move, Step.FORWARDED, now)

    def held(self, record: Record) -> None:
        """Take the record of a hold that has ended."""
        if (move := self._last_that_left(record.port)) is not None:
            refused = {f"refused_{name}": count for name, count in record.refused.items()}
            move.counts = {**record.counts, **refused}
            self._note(move, Step.HOLD_OVER, record.ended_at)
            held = move.counts.get("held", 0)
            _log(move, f"{Step.HOLD_OVER}: {held} frames held, {move.lost} lost")

    def _last_that_left(self, name: str) -> GuestMove | None:
        """The move that a hold is of; None: it began before this daemon, or is over."""
        moves = [m for m in self.history if m.port == name and m.way is Way.LEAVES]
        return moves[-1] if moves and Step.HOLD_OVER not in moves[-1].at else None

    def _note(self, move: GuestMove, step: Step, at: float) -> None:
        """Note a step, and count the outage and log the end if they came with it."""
        outage, end = move.outage, move.end
        move.note(step, at)
        self.changed = True
        if outage is None and move.outage is not None:
            self.outages[move.way].observe(move.outage)
        if move.end is not end:
            known = "" if move.outage is None else f", outage {1e3 * move.outage:.1f} ms"
            _log(move, f"{move.end}: {step}{known}")

    def _begin(self, name: str, way: Way, step: Step, at: float) -> GuestMove:
        move = GuestMove(name, way, {step: at})
        self.history.append(move)
        self.changed = True
        return move

    def _guest(self, name: str) -> _Guest:
        return self._guests.setdefault(name, _Guest())


def _log(move: GuestMove, text: str) -> None:
    vlog.info(f"{move.port}: migration: {text}")


def _keep(table: dict[str, Any], key: str, value: Any) -> None:
    if key in table or len(table) < MOST_STATIONS:
        table[key] = value


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3
