# SPDX-License-Identifier: Apache-2.0
"""Decides which guests are announced, as what and how often. Sans-IO.

    rows, reports of workers, an operator ──► Guests ──► actions
                                     MAC table ─┘         Announce, Withdraw, Query, FindMoved, ...

The front-end asks (SEND_RARP), the guest that runs here now (`guest.py`), a port that was moved, an
operator. Announced is every station that the guest is known to use: those of the rows, and those
that its peers claim (`claims.py`). If the guest was here before, its MACs are first looked for on
other ports (`elsewhere.py`). A trigger that comes only once is repeated (`rounds.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Set

from ovs_vhost_plugin.announce.actions import (
    Announce,
    AskSent,
    FindMoved,
    GuestAction,
    NothingKnown,
    Query,
    TellMoved,
    Withdraw,
)
from ovs_vhost_plugin.announce.addresses import MAX_STATIONS, spread
from ovs_vhost_plugin.announce.announcement import Request
from ovs_vhost_plugin.announce.frames.queries import queries
from ovs_vhost_plugin.announce.guests.claims import NOT_GIVEN, macs_of, sort_out
from ovs_vhost_plugin.announce.guests.elsewhere import MAC_ELSEWHERE, Look, moved
from ovs_vhost_plugin.announce.guests.guest import Arrival, Change, GuestState
from ovs_vhost_plugin.announce.guests.port import GuestPort
from ovs_vhost_plugin.announce.guests.rounds import Rounds
from ovs_vhost_plugin.announce.guests.silence import Silence
from ovs_vhost_plugin.announce.result import Outcome, Result
from ovs_vhost_plugin.announce.triggers import Trigger
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station

RARP_ROUNDS = 1.0
"""Seconds after SEND_RARP in which the front-end makes the rounds itself."""

ARRIVES_WITHIN = 2.0
"""Seconds after the first start of a guest's rings in which SEND_RARP tells that it has arrived.

QEMU asks before the guest runs, but what it asks may be heard after its first ring has begun. Later
an operator has asked for it (announce-self).
"""

MAX_QUERIED = 8
"""VLANs of a guest that is asked for its multicast groups."""

OF_BEFORE = frozenset({Trigger.RESUMED, Trigger.RECONNECT, Trigger.PORT_MOVED})
"""Triggers of guests that were here before: their addresses may have moved on since."""

Conflict = Callable[[bytes, str, Container[str]], str]
"""Why a MAC is not a port's guest's to announce, given the ports whose guests run; "" if it is."""


class _State:
    """The guest of one port, and the facts that its reports have told."""

    def __init__(self) -> None:
        self.guest = GuestState()
        self.socket: tuple[str, str] | None = None  # by which it is this guest's
        self.announces_itself = False
        self.migrates = False  # or did so when it stopped
        self.rarp_at = -RARP_ROUNDS


class _Running:
    """The ports whose guests run."""

    def __init__(self, states: Mapping[str, _State]) -> None:
        self._states = states

    def __contains__(self, name: object) -> bool:
        state = self._states.get(str(name))
        return state is not None and state.guest.running


class Guests:
    """The guests of all ports. Times are told."""

    def __init__(self) -> None:
        self._ports: Mapping[str, GuestPort] = {}
        self._conflict: Conflict = lambda _mac, _port, _running: ""
        self._states: dict[str, _State] = {}
        self._rounds = Rounds()
        self._silence = Silence()
        self._looks: dict[str, Look] = {}  # at most one a port: a new one takes its place
        self._actions: list[GuestAction] = []
        self._arrivals: list[Arrival] = []

    def take_actions(self) -> list[GuestAction]:
        """The actions that have become due since the last call, in order."""
        actions, self._actions = self._actions, []
        return actions

    def take_arrivals(self) -> list[Arrival]:
        """The guests that have come since the last call, announced or not."""
        arrivals, self._arrivals = self._arrivals, []
        return arrivals

    # -- rows ------------------------------------------------------------------------------------

    def set_ports(
        self,
        ports: Mapping[str, GuestPort],
        conflict: Conflict,
        now: float,
        changed: Set[str] | None = None,
    ) -> None:
        """Take all ports as they are now; a guest whose port was moved is announced there.

        changed  names of those that are not as before, at least; None: any
        """
        before, self._ports, self._conflict = self._ports, ports, conflict
        names = before.keys() | ports.keys() if changed is None else changed
        for name in names:
            if name in before and name not in ports:
                self._cancel(name)
                self._forget_guest(name)
        for name in names:
            if (port := ports.get(name)) is None:
                continue
            self._see_replaced(port)
            state = self._states.get(name)
            if name not in before or state is None or not state.guest.running:
                continue
            was, place = before[name].location, port.location
            if was.moved_to(place):
                self._begin(name, Trigger.PORT_MOVED, now, was)
            elif was.hindered and not place.hindered:
                self._begin(name, Trigger.PORT_FORWARDS, now)

    def _see_replaced(self, port: GuestPort) -> None:
        """Forget the guest of a port that has another socket now: it is another's."""
        state = self._state(port.name)
        if state.socket is not None and state.socket != port.socket:
            self._rounds.cancel(port.name)
            self._silence.cancel(port.name)
            state.guest.replaced()
        state.socket = port.socket

    def _forget_guest(self, name: str) -> None:
        """Forget the guest of a port without a row, unless it runs on: a row may be put right."""
        if name not in self._ports and self._state(name).guest.away:
            del self._states[name]

    def _cancel(self, name: str) -> None:
        self._rounds.cancel(name)
        self._silence.cancel(name)
        self._looks.pop(name, None)

    # -- what workers report ---------------------------------------------------------------------

    def rarp(self, name: str, mac: bytes, at: float, now: float) -> None:
        """The front-end of port `name` sent SEND_RARP for `mac` at `at`."""
        state = self._state(name)
        state.guest.rarp(mac)
        state.rarp_at = at
        self._rounds.cancel(name)  # the front-end makes them
        if not state.guest.running or state.guest.began_since(at - ARRIVES_WITHIN):
            self._arrivals.append(Arrival(name, Trigger.SEND_RARP, at))
        port = self._announced(name)
        if port is not None:
            self._request(port, Trigger.SEND_RARP, at, now)
            if state.guest.running:
                self._ask_for_groups(port, now)

    def learned(self, name: str, stations: tuple[Station, ...], now: float) -> None:
        """The frames of a guest have shown `stations` so far."""
        self._changed(name, self._state(name).guest.uses(stations, now), now, watch=False)

    def started(
        self, name: str, base: int, sent: int, now: float, *, moved_in: bool, further: bool
    ) -> None:
        """Rings of a guest have begun to run, see `GuestState.started`."""
        guest = self._state(name).guest
        change = guest.started(base, sent, now, moved_in=moved_in, further=further)
        self._changed(name, change, now)

    def status(
        self, name: str, status: str, now: float, *, announces_itself: bool, migrates: bool
    ) -> None:
        """The status of a port has changed, or what its guest has acknowledged."""
        state = self._state(name)
        state.announces_itself = announces_itself
        self._changed(name, state.guest.told(status, now), now)
        if not state.guest.running:
            return
        began, state.migrates = migrates and not state.migrates, migrates
        if began and name in self._ports:
            # What has moved on does not go along with a guest that migrates.
            self._find_moved(name, "", self._ports[name].location, state.guest.known(now))

    def ended(self, name: str, now: float) -> None:
        """The worker of a port has ended."""
        self._changed(name, self._state(name).guest.ended(now), now)
        self._forget_guest(name)

    def counted(self, name: str, request: int, sent: int, now: float) -> None:
        """A worker has answered AskSent: its guest has sent so many frames."""
        if self._silence.answered(name, request, sent):
            self._begin(name, Trigger.GUEST_SILENT, now)

    def no_worker(self, name: str) -> None:
        """There is no worker to ask."""
        self._silence.cancel(name)

    def _changed(self, name: str, change: Change, now: float, *, watch: bool = True) -> None:
        if change.stopped:
            self._cancel(name)
            macs = macs_of(self._ports.get(name), self._state(name).guest.known(now))
            self._actions.append(Withdraw(name, "its guest has stopped", macs))
        if not change.trigger:
            return
        if change.trigger == Trigger.MOVED_IN:
            self._arrivals.append(Arrival(name, Trigger.MOVED_IN, now))
        self._begin(name, change.trigger, now)
        port, state = self._ports.get(name), self._state(name)
        if watch and port is not None and port.policy.guest_silent and state.announces_itself:
            due_at = now + port.policy.guest_silent / 1e3
            self._silence.watch(name, state.guest.sent_at_start, due_at)

    # -- announcing ------------------------------------------------------------------------------

    def _begin(self, name: str, trigger: str, now: float, before: Location | None = None) -> None:
        """Announce all that the guest uses, and again in rounds.

        If it was there before, its peers' claims are first looked for in the bridge's table, as far
        as rows let them through.
        """
        port, state = self._announced(name), self._state(name)
        if port is None:
            return
        given = {one.mac for one in port.given}
        allowed = sort_out(port, state.guest.known(now)).allowed
        claims = tuple(one for one in allowed if one.mac not in given)
        if claims and trigger in OF_BEFORE and not state.migrates:
            self._find_moved(name, trigger, before or port.location, claims)
        else:
            self._begin_rounds(port, trigger, now)

    def _find_moved(
        self, name: str, trigger: str, place: Location, stations: tuple[Station, ...]
    ) -> None:
        self._looks[name] = Look(name, trigger, place, stations)
        self._actions.append(FindMoved(self._looks[name]))

    def table(self, look: Look, text: str, now: float) -> None:
        """Take the answer to a FindMoved, "" for none.

        What has moved on is forgotten, here and in the worker, and the rest is announced.
        """
        name = look.port
        if self._looks.get(name) is not look:
            return
        del self._looks[name]
        gone = moved(look, text)
        if gone:
            self._state(name).guest.moved_on(gone)
            self._actions.append(TellMoved(name, tuple(gone)))
        port = self._ports.get(name)
        if port is None or not look.trigger:
            return
        refused = [(Station(*key), refusal) for key, refusal in gone.items()]
        self._announce(port, (), refused, look.trigger, now)
        self._begin_rounds(port, look.trigger, now)

    def _begin_rounds(self, port: GuestPort, trigger: str, now: float) -> None:
        state = self._state(port.name)
        self._ask_for_groups(port, now)
        if not self._request(port, trigger, now, now):
            self._actions.append(NothingKnown(port.name, trigger))
            state.guest.unnamed(trigger, now)
        elif port.location.vlan.isolated:
            self._rounds.cancel(port.name)  # and begin where it is wired: it has moved then
        elif now - state.rarp_at >= RARP_ROUNDS:
            self._rounds.begin(port.name, trigger, port.policy, now)

    def _request(self, port: GuestPort, trigger: str, at: float, now: float) -> tuple[Station, ...]:
        """Announce the known stations of the guest; return those that may be announced or not."""
        found = sort_out(port, self._state(port.name).guest.known(now))
        refused = [(one, name.advice) for one, name in found.refused]
        return self._announce(port, found.allowed, refused, trigger, at)

    def _announce(
        self,
        port: GuestPort,
        allowed: tuple[Station, ...],
        refused: Iterable[tuple[Station, str]],
        trigger: str,
        at: float,
    ) -> tuple[Station, ...]:
        # An isolated port carries nothing: the result says so of each station.
        isolated = port.location.vlan.isolated
        stations = allowed[:MAX_STATIONS] if isolated else spread(allowed, port.location)
        running = _Running(self._states)
        conflicts = [self._conflict(one.mac, port.name, running) for one in stations]
        asked = (*zip(stations, conflicts, strict=True), *refused)
        for station, refusal in asked:
            request = Request(port.name, station, trigger, at, port.policy)
            self._actions.append(Announce(request, refusal))
        return tuple(station for station, _ in asked)

    def _ask_for_groups(self, port: GuestPort, now: float) -> None:
        """Ask the guest for its multicast groups, so that a bridge that snoops learns them."""
        if not port.snoops or port.bridge_mac is None:
            return
        vlan = port.location.vlan
        known = (*port.given, *self._state(port.name).guest.known(now))
        used = sorted(one.vlan for one in spread(known, port.location))
        likely = [tag for tag in dict.fromkeys((0, *used, *vlan.listed)) if vlan.carries(tag)]
        for tag in likely[:MAX_QUERIED]:
            self._actions.append(Query(port.name, queries(port.bridge_mac, tag)))

    # -- an operator -----------------------------------------------------------------------------

    def known(self, name: str, now: float) -> bool:
        """Whether any address of the guest of a port is known, by whomever."""
        return bool(self._ports[name].given or self._state(name).guest.known(now))

    def by_hand(self, name: str, mac: bytes | None, now: float) -> Station | None:
        """Announce all stations, or `mac` only; return the first, None if there is none.

        Who names a MAC here is the administrator, and so it is the guest's.
        """
        port = self._ports[name]
        found = sort_out(port, self._state(name).guest.known(now), by_hand=mac)
        allowed = tuple(one for one in found.allowed if mac is None or one.mac == mac)
        # A refusal is of interest where there is nothing else.
        refused = [] if allowed else [(one, lacks.advice) for one, lacks in found.refused[:1]]
        return next(iter(self._announce(port, allowed, refused, Trigger.MANUAL, now)), None)

    def worth_publishing(self, result: Result) -> bool:
        """Whether a result says more than that a peer claims what rows do not give."""
        port = self._ports.get(result.port)
        if result.outcome is not Outcome.REFUSED or port is None:
            return True
        name = result.reason.partition(":")[0]
        return not port.given or name not in NOT_GIVEN | {MAC_ELSEWHERE}

    # -- time ------------------------------------------------------------------------------------

    def get_timer(self) -> float | None:
        """When `handle_timer` is due, None for never."""
        times = (self._rounds.get_timer(), self._silence.get_timer())
        return min((at for at in times if at is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Begin the rounds that are due, and ask for guests that ought to have spoken."""
        for name, trigger in self._rounds.handle_timer(now):
            port = self._announced(name)
            if port is not None:
                self._request(port, trigger, now, now)
                self._ask_for_groups(port, now)
        self._actions += [AskSent(*asked) for asked in self._silence.handle_timer(now)]

    def _announced(self, name: str) -> GuestPort | None:
        """A port whose guest is announced by itself."""
        port = self._ports.get(name)
        return port if port is not None and port.policy.enabled else None

    def _state(self, name: str) -> _State:
        return self._states.setdefault(name, _State())
