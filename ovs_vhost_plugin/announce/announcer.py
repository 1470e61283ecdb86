# SPDX-License-Identifier: Apache-2.0
"""Decides what is announced when, sans-IO: requests and the switch's answers in, actions out.

An announcement goes round this circle until the bridge has the MAC on the port, or until its
attempts or its time are used up:

    waiting ──PacketOut──► sent ──delivered──► AskTable ──on the port──► learned
       ▲                     │ failed              │ elsewhere, no table
       └─────── backoff ─────┴─────────────────────┘

One announcement of a MAC is under way on a port at a time. A request that comes before its frame
went out is answered by that frame; one that comes later is answered by a successor, begun when
this one ends. So however many requests come, the last is always followed by a frame.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from ovs_vhost_plugin.announce import fdb
from ovs_vhost_plugin.announce.announcement import Announcement, Request
from ovs_vhost_plugin.announce.frames import FrameError, check_mac, rarp
from ovs_vhost_plugin.announce.limit import TokenBucket
from ovs_vhost_plugin.announce.model import Location, Outcome, Result

MAX_MACS = 16  # announcements under way on one port; the oldest gives way to the newest
FRAME_RATE, FRAME_BURST = 20.0, 20  # packet-outs of one port; QEMU sends 5 requests in 0.8 s
REFUSAL_RATE, REFUSAL_BURST = 1.0, 5  # refusals of one port that are told; all are counted
HISTORY = 256


@dataclass(frozen=True, slots=True)
class PacketOut:
    """Send `frame` as if it came from `location`; answer with `delivered` or `failed`."""

    token: int
    location: Location
    frame: bytes


@dataclass(frozen=True, slots=True)
class AskTable:
    """Read the MAC table of `bridge`; answer with `table` or `no_table`."""

    bridge: str


Action = PacketOut | AskTable


@dataclass(frozen=True, slots=True)
class _Attempt:
    announcement: Announcement
    location: Location


@dataclass(slots=True)
class _Port:
    frames: TokenBucket
    refusals: TokenBucket
    announcements: dict[bytes, Announcement] = field(default_factory=dict)  # by MAC, oldest first


class Announcer:
    """All announcements of all ports. Times are CLOCK_MONOTONIC seconds."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.history: deque[Result] = deque(maxlen=HISTORY)
        self._locations: dict[str, Location] = {}
        self._ports: dict[str, _Port] = {}
        self._sent: dict[int, _Attempt] = {}  # by the token of the PacketOut
        self._delivered: list[_Attempt] = []  # to be confirmed by a table asked for from now on
        self._asked: dict[str, list[_Attempt]] = {}  # by bridge; one question at a time
        self._results: list[Result] = []
        self._token = 0
        self._wake_at: float | None = None

    def set_locations(self, locations: Mapping[str, Location]) -> None:
        """Take the current location of every port; a port that left is forgotten."""
        for gone in self._locations.keys() - locations.keys():
            self._ports.pop(gone, None)
        self._locations = dict(locations)

    def request(self, port: str, mac: bytes, trigger: str, now: float, received_at: float) -> None:
        """Announce `mac` on `port`; a time of reception that cannot be is taken as `now`."""
        if not 0 <= received_at <= now:
            received_at = now
        self.counters["requests"] += 1
        request = Request(port, mac, trigger, received_at)
        running = self._port(port, now).announcements.get(mac)
        if running is None:
            self._start(Announcement(request, now), now)
        elif running.join(request):
            self.counters["merged"] += 1

    def run(self, now: float, obstacle: Callable[[Location], str | None]) -> list[Action]:
        """Return what is to be done now.

        `obstacle` tells why no packet-out can be sent at a location, None if one can; an
        announcement waits for it to go without using up an attempt.
        """
        for announcement in list(self._running()):
            if now >= announcement.deadline:
                self._end(announcement, now)
        actions: list[Action] = []
        wake_at = [announcement.deadline for announcement in self._running()]
        for announcement in self._running():
            if announcement.waiting:
                step = self._attempt(announcement, now, obstacle)
                if isinstance(step, PacketOut):
                    actions.append(step)
                elif step is not None:
                    wake_at.append(step)
        self._wake_at = min(wake_at, default=None)
        return actions + self._questions()

    def wake_at(self) -> float | None:
        """Return when `run` is due if no request, location or answer comes; None for never."""
        return self._wake_at

    def delivered(self, token: int) -> None:
        """Take the switch's word that it has carried a PacketOut out."""
        self._delivered.append(self._sent.pop(token))

    def failed(self, token: int, outcome: Outcome, reason: str, now: float) -> None:
        """Take it that a PacketOut was not carried out, or that nobody knows."""
        self._retry(self._sent.pop(token).announcement, outcome, reason, now)

    def table(self, bridge: str, text: str, now: float) -> None:
        """Take the answer to an AskTable."""
        for attempt in self._asked.pop(bridge):
            entries = fdb.entries_of(text, attempt.announcement.request.mac)
            place = attempt.location
            reason = fdb.missing(entries, place.ofport, place.tag or 0)
            if reason is None:
                attempt.announcement.learned(now)
                self._end(attempt.announcement, now)
            else:
                self._retry(attempt.announcement, Outcome.NOT_LEARNED, reason, now)

    def no_table(self, bridge: str, reason: str, now: float) -> None:
        """Take it that an AskTable has no answer."""
        for attempt in self._asked.pop(bridge):
            reason = f"no MAC table: {reason}"
            self._retry(attempt.announcement, Outcome.NOT_LEARNED, reason, now)

    def take_results(self) -> list[Result]:
        """Return what ended since the last call."""
        results, self._results = self._results, []
        return results

    def _port(self, name: str, now: float) -> _Port:
        if name not in self._ports:
            self._ports[name] = _Port(
                TokenBucket(FRAME_RATE, FRAME_BURST, now),
                TokenBucket(REFUSAL_RATE, REFUSAL_BURST, now),
            )
        return self._ports[name]

    def _running(self) -> Iterator[Announcement]:
        for port in self._ports.values():
            yield from port.announcements.values()

    def _is_running(self, announcement: Announcement) -> bool:
        port = self._ports.get(announcement.request.port)
        if port is None:
            return False
        return port.announcements.get(announcement.request.mac) is announcement

    def _start(self, announcement: Announcement, now: float) -> None:
        request = announcement.request
        port = self._port(request.port, now)
        try:
            check_mac(request.mac)
        except FrameError as error:
            self._refuse(announcement, error.name.value, now)
            return
        if len(port.announcements) >= MAX_MACS:
            oldest = next(iter(port.announcements.values()))
            del port.announcements[oldest.request.mac]
            self._refuse(oldest, "flood", now)
        port.announcements[request.mac] = announcement

    def _attempt(
        self, announcement: Announcement, now: float, obstacle: Callable[[Location], str | None]
    ) -> PacketOut | float | None:
        """Return the next packet-out, or when it may go, or None if that is not known."""
        request = announcement.request
        location = self._locations.get(request.port)
        if location is None or location.ofport < 1:
            announcement.reason = "ofport unknown"
            return None
        hindrance = obstacle(location)
        if hindrance is not None:
            announcement.reason = f"OpenFlow: {hindrance}"
            return None
        if now < announcement.due_at:
            return announcement.due_at
        frames = self._port(request.port, now).frames
        if not frames.take(now):
            return frames.ready_at(now)
        self._token += 1
        self._sent[self._token] = _Attempt(announcement, location)
        self.counters["packet-outs"] += 1
        announcement.sent(location, now)
        return PacketOut(self._token, location, rarp(request.mac))

    def _questions(self) -> list[Action]:
        """Ask for the tables of the bridges that have delivered something.

        A table that was asked for earlier says nothing about what was delivered since: then the
        question is put again when that answer is there.
        """
        waiting, self._delivered = self._delivered, []
        questions: list[Action] = []
        for attempt in waiting:
            bridge = attempt.location.bridge
            if AskTable(bridge) in questions:
                self._asked[bridge].append(attempt)
            elif bridge in self._asked:
                self._delivered.append(attempt)
            else:
                questions.append(AskTable(bridge))
                self._asked[bridge] = [attempt]
        return questions

    def _retry(self, announcement: Announcement, outcome: Outcome, reason: str, now: float) -> None:
        if not announcement.retry(outcome, reason, now):
            self._end(announcement, now)

    def _end(self, announcement: Announcement, now: float) -> None:
        if not self._is_running(announcement):
            return  # it gave way to others, ran out of time, or its port is gone
        port = self._ports[announcement.request.port]
        del port.announcements[announcement.request.mac]
        if announcement.outcome is Outcome.REFUSED:
            self._refuse(announcement, announcement.reason, now)
        else:
            self._tell(announcement)
        if announcement.successor is not None:
            requests = announcement.successor_requests
            self._start(Announcement(announcement.successor, now, requests), now)

    def _refuse(self, announcement: Announcement, reason: str, now: float) -> None:
        announcement.outcome = Outcome.REFUSED
        announcement.reason = reason
        if self._port(announcement.request.port, now).refusals.take(now):
            self._tell(announcement)
        else:
            self.counters[Outcome.REFUSED.value] += 1

    def _tell(self, announcement: Announcement) -> None:
        self.counters[announcement.outcome.value] += 1
        result = announcement.result()
        self._results.append(result)
        self.history.append(result)
