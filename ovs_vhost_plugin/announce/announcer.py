# SPDX-License-Identifier: Apache-2.0
"""Decides how and when a station is announced: requests and answers in, actions out. Sans-IO.

An announcement goes round this circle until the bridge sends frames for the MAC to the port, or
until its attempts or its time are used up:

    waiting ──PacketOut──► sent ──delivered──► AskTable ──on the port──► AskTrace ──► learned
       ▲     (or InjectFrames)    │ failed              │ nowhere ► AskTrace ────┘│
       └─────── pause ──────┴─────────────────────┴ elsewhere, no answer ───┘ the flows drop it

A MAC may be on the port from before. So the last question is whether the bridge's flows let the
announcement through: one frame of each kind is traced, until one gets through. On OVN's bridge no
flow reads the MAC table. There AskTrace alone tells whether the port is active.

One announcement of a MAC in a VLAN is under way on a port at a time. A request that comes before
its frame went out is answered by that frame; one that comes later is answered by a successor,
begun when this one ends. So however many requests come, the last is always followed by a frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from ovs_vhost_plugin.announce.actions import AnnouncerAction, AskTable, InjectFrames, PacketOut
from ovs_vhost_plugin.announce.announcement import MAX_INJECTIONS, Announcement, Request
from ovs_vhost_plugin.announce.attempt import Attempt
from ovs_vhost_plugin.announce.formats import Format
from ovs_vhost_plugin.announce.frames.compose import compose
from ovs_vhost_plugin.announce.result import Outcome, Result
from ovs_vhost_plugin.announce.returns import Returns
from ovs_vhost_plugin.announce.triggers import Trigger
from ovs_vhost_plugin.announce.under_way import UnderWay
from ovs_vhost_plugin.common.history import History
from ovs_vhost_plugin.net.ethernet import MacError, check_mac
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.vswitchd import fdb, trace


class Announcer:
    """All announcements of all ports. Times are CLOCK_MONOTONIC seconds."""

    def __init__(self, formats: Mapping[str, Format] | None = None) -> None:
        self.counters: Counter[str] = Counter()
        self.history: History[Result] = History()
        self.returns = Returns()
        self._formats = formats or {}
        self._locations: dict[str, Location] = {}
        self._ports: dict[str, UnderWay] = {}
        self._busy: dict[str, None] = {}  # the ports with something under way, and few others
        self._sent: dict[int, Attempt] = {}  # by the token of a PacketOut, InjectFrames or AskTrace
        self._delivered: list[Attempt] = []  # to be confirmed by a table asked for from now on
        self._unknown: list[Attempt] = []  # to be traced, as the table does not have them
        self._asked: dict[str, list[Attempt]] = {}  # by bridge; one question at a time
        self._results: list[Result] = []
        self._token = 0
        self._wake_at: float | None = None

    def set_locations(self, locations: Mapping[str, Location]) -> None:
        """Take the current location of every port; a port that left is forgotten."""
        for gone in self._locations.keys() - locations.keys():
            self._ports.pop(gone, None)
        self._locations = dict(locations)

    def request(self, request: Request, now: float, refusal: str = "") -> None:
        """Announce a station; with a `refusal`, only tell that it is not announced, and why.

        A refusal is told once for a station, as a peer may go on asking. It is counted by the
        name with which `refusal` begins. A time of reception that cannot be is taken as `now`.
        """
        self.counters["requests"] += 1
        if not 0 <= request.received_at <= now:
            request = replace(request, received_at=now)
        if refusal:
            self._turn_down(Announcement(request, now), refusal, now)
            return
        running = self._port(request.port, now).of(request.station.key)
        if running is None:
            self._start(Announcement(request, now), now)
        elif running.join(request):
            self.counters["merged"] += 1

    def withdraw(self, port: str, reason: str) -> None:
        """End all announcements on `port`: its guest has stopped."""
        for one in self._ports[port].clear() if port in self._ports else ():
            one.outcome, one.reason = Outcome.WITHDRAWN, reason
            one.requests += one.successor_requests
            self._tell(one)

    def run(self, now: float, obstacle: Callable[[Location], str | None]) -> list[AnnouncerAction]:
        """Return the actions that are due now.

        `obstacle` tells why no packet-out can be sent at a location, None if one can; an
        announcement then goes by the tap, and waits for the obstacle to go.
        """
        for announcement in list(self._running()):
            if now >= announcement.deadline:
                self._end(announcement, now)
        actions: list[AnnouncerAction] = []
        wakes: list[float] = []
        for announcement in [one for one in self._running() if one.waiting]:
            step = self._attempt(announcement, now, obstacle)
            if isinstance(step, float):
                wakes.append(step)
            elif step is not None:
                actions.append(step)
        wakes += [announcement.deadline for announcement in self._running()]
        actions += self.returns.actions(now) + self._questions()
        if (wake_at := self.returns.get_timer()) is not None:
            wakes.append(wake_at)
        self._wake_at = min(wakes, default=None)
        return actions

    def get_timer(self) -> float | None:
        """When `run` is due if no request, location or answer comes; None for never."""
        return self._wake_at

    def delivered(self, token: int) -> None:
        """Note that a PacketOut or an InjectFrames was carried out."""
        attempt = self._sent.pop(token)
        attempt.announcement.injected |= attempt.announcement.injecting
        self._delivered.append(attempt)

    def failed(self, token: int, outcome: Outcome, reason: str, now: float) -> None:
        """Note that a PacketOut or an InjectFrames was not carried out, or that nobody knows."""
        self._retry(self._sent.pop(token).announcement, outcome, reason, now)

    def table(self, bridge: str, text: str, now: float) -> None:
        """Take the answer to an AskTable."""
        for attempt in self._asked.pop(bridge):
            place = attempt.location
            entries = fdb.entries_of(text, attempt.announcement.request.station.mac)
            vlan = place.vlan.vlan_of(attempt.station_vlan)
            if vlan is None:
                refusal = f"the port does not carry VLAN {attempt.station_vlan}"
                self._retry(attempt.announcement, Outcome.NOT_LEARNED, refusal, now)
                continue
            reason = fdb.missing(entries, place.numbers, vlan)
            if reason is None:
                self._known(attempt, "fdb", now)
            elif fdb.knows(entries, vlan):
                self._retry(attempt.announcement, Outcome.NOT_LEARNED, reason, now)
            else:
                self._unknown.append(replace(attempt, reason=reason))

    def no_table(self, bridge: str, reason: str, now: float) -> None:
        """Note that an AskTable has no answer."""
        for attempt in self._asked.pop(bridge):
            text = f"no MAC table: {reason}"
            self._retry(attempt.announcement, Outcome.NOT_LEARNED, text, now)

    def trace(self, token: int, text: str, now: float) -> None:
        """Take the answer to an AskTrace."""
        attempt = self._sent.pop(token)
        if attempt.known_by:
            self._passage(attempt, trace.stopped(text), now)
            return
        if attempt.location.ovn:
            reason = trace.blocked(text)
            if reason is None:
                self._confirmed(attempt.announcement, Outcome.ACTIVE, "flow", now)
            else:
                self._retry(attempt.announcement, Outcome.BLOCKED, reason, now)
            return
        reason = trace.missing(text, attempt.location.numbers)
        if reason is None:
            self._known(attempt, "flow", now)
        else:
            self._retry(attempt.announcement, Outcome.NOT_LEARNED, reason or attempt.reason, now)

    def no_trace(self, token: int, reason: str, now: float) -> None:
        """Note that an AskTrace has no answer."""
        known = self._sent[token].reason
        reason = f"{known}, no trace: {reason}" if known else f"no trace: {reason}"
        self.failed(token, Outcome.NOT_LEARNED, reason, now)

    def take_results(self) -> list[Result]:
        """Return the announcements that ended since the last call."""
        results, self._results = self._results, []
        return results

    def _port(self, name: str, now: float) -> UnderWay:
        if name not in self._ports:
            self._ports[name] = UnderWay(now)
        return self._ports[name]

    def _running(self) -> Iterator[Announcement]:
        for name in list(self._busy):
            port = self._ports.get(name)
            if port:
                yield from port
            else:
                del self._busy[name]

    def _start(self, announcement: Announcement, now: float) -> None:
        request = announcement.request
        port = self._port(request.port, now)
        try:
            check_mac(request.station.mac)
        except MacError as error:
            self._turn_down(announcement, error.name.value, now)
            return
        self._busy[request.port] = None
        oldest = port.add(announcement)
        if oldest is not None:
            self._refuse(oldest, "flood", tell=port.may_tell(now))

    def _attempt(
        self, announcement: Announcement, now: float, obstacle: Callable[[Location], str | None]
    ) -> AnnouncerAction | float | None:
        """Return the next frames to send, or when they may go; None if it has ended, or waits."""
        location = self._locations.get(announcement.request.port)
        if location is None or location.ofport < 1:
            announcement.reason = "ofport unknown"
            return announcement.deadline
        if location.vlan.isolated:
            announcement.outcome, announcement.reason = Outcome.ISOLATED, "it is in VLAN 4095 alone"
            self._end(announcement, now)
            return None
        if location.hindered:
            announcement.reason = f"the port does not forward yet ({location.hindered})"
            return announcement.deadline
        due_at = announcement.due_at
        hindrance = obstacle(location)
        if hindrance is not None:
            announcement.hinder(f"OpenFlow: {hindrance}")
            due_at = max(due_at, announcement.inject_at)
        by_tap = hindrance is not None or announcement.refused
        if by_tap and announcement.injections >= MAX_INJECTIONS:
            return announcement.deadline
        if now < due_at:
            return due_at
        attempts = self._port(announcement.request.port, now).attempts
        if not attempts.take(now):
            return attempts.ready_at(now)
        return self._send(announcement, location, now, by_tap=by_tap)

    def _send(
        self, announcement: Announcement, location: Location, now: float, *, by_tap: bool
    ) -> AnnouncerAction | None:
        request = announcement.request
        frames, wrong = compose(
            request.station,
            request.policy,
            self._formats,
            request.port,
            location.bridge,
            slb=location.slb,
        )
        if wrong:
            self.counters["format-errors"] += 1
            announcement.format_error = wrong
        if not frames:
            reason = wrong or "no frame: the policy asks for none of what is known"
            announcement.outcome, announcement.reason = Outcome.REFUSED, reason
            self._end(announcement, now)
            return None
        location = location.member(announcement.attempts)
        if not by_tap and self.returns.comes_back(announcement, location, now):
            self.returns.tell(announcement, location, frames[0])
            announcement.settles(now)
            return None
        announcement.sent(location, frames, now, injected=by_tap)
        token = self._note(Attempt(announcement, location))
        if by_tap:
            self.counters["injections"] += 1
            return InjectFrames(token, request.port, frames)
        self.counters["packet-outs"] += len(frames)
        return PacketOut(token, location, frames, request.policy.output)

    def _note(self, attempt: Attempt) -> int:
        self._token += 1
        self._sent[self._token] = attempt
        return self._token

    def _questions(self) -> list[AnnouncerAction]:
        """Ask for the tables of the bridges that have delivered an attempt.

        A table that was asked for earlier says nothing of a later delivery: then the question is
        put again when that answer is there.
        """
        waiting, self._delivered = self._delivered, []
        questions: list[AnnouncerAction] = []
        for attempt in waiting:
            bridge = attempt.location.bridge
            if attempt.location.ovn:
                self._unknown.append(attempt)
            elif AskTable(bridge) in questions:
                self._asked[bridge].append(attempt)
            elif bridge in self._asked:
                self._delivered.append(attempt)
            else:
                questions.append(AskTable(bridge))
                self._asked[bridge] = [attempt]
        unknown, self._unknown = self._unknown, []
        for attempt in unknown:
            questions.append(attempt.question(self._note(attempt)))
        return questions

    def _known(self, attempt: Attempt, by: str, now: float) -> None:
        """The station is on the port; ask the flows whether this announcement put it there."""
        if attempt.announcement.past_the_table:
            self._confirmed(attempt.announcement, Outcome.LEARNED, by, now)
        else:
            self._unknown.append(replace(attempt, known_by=by))

    def _passage(self, attempt: Attempt, stopped: str | None, now: float) -> None:
        """Take whether the flows let one kind of the announcement's frames through."""
        announcement = attempt.announcement
        if stopped is None:
            self._confirmed(announcement, Outcome.LEARNED, attempt.known_by, now)
        elif attempt.sample + 1 < len(announcement.samples):
            self._unknown.append(replace(attempt, sample=attempt.sample + 1))
        else:
            isolated = stopped == trace.ISOLATED
            outcome = Outcome.ISOLATED if isolated else Outcome.NOT_LEARNED
            self._retry(announcement, outcome, stopped, now)

    def _confirmed(self, announcement: Announcement, outcome: Outcome, by: str, now: float) -> None:
        announcement.confirmed(outcome, by, now)
        self._end(announcement, now)

    def _retry(self, announcement: Announcement, outcome: Outcome, reason: str, now: float) -> None:
        if not announcement.retry(outcome, reason, now):
            self._end(announcement, now)

    def _end(self, announcement: Announcement, now: float) -> None:
        port = self._ports.get(announcement.request.port)
        if port is None or announcement not in port:
            return  # it gave way to others, ran out of time, or its port is gone
        port.remove(announcement)
        if announcement.outcome is Outcome.REFUSED:
            self._refuse(announcement, announcement.reason, tell=port.may_tell(now))
        else:
            self._tell(announcement)
        if announcement.successor is not None:
            requests = announcement.successor_requests
            self._start(Announcement(announcement.successor, now, requests), now)

    def _turn_down(self, announcement: Announcement, refusal: str, now: float) -> None:
        name, request = refusal.partition(":")[0], announcement.request
        self.counters[name] += 1
        news = self._port(request.port, now).is_news((request.station.key, name), now)
        self._refuse(announcement, refusal, tell=news)

    def _refuse(self, announcement: Announcement, reason: str, *, tell: bool) -> None:
        announcement.outcome = Outcome.REFUSED
        announcement.reason = reason
        if tell or announcement.request.trigger == Trigger.MANUAL:
            self._tell(announcement)
        else:
            self.counters[Outcome.REFUSED.value] += 1

    def _tell(self, announcement: Announcement) -> None:
        self.counters[announcement.outcome.value] += 1
        result = announcement.result()
        self._results.append(result)
        self.history.append(result)
