# SPDX-License-Identifier: Apache-2.0
"""Announcing the guests of this switch: from what workers report and rows say, to log and rows.

Who asks: the front-end (SEND_RARP), the guest that runs here now (`announce/guest.py`), a port
that was moved, an operator. What is asked for: every station that the guest is known to use, by the
rows, or by what its peers claim (`daemon/guests/claims.py`).
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ovs.vlog

from ovs_vhost_plugin.announce.addresses import MAX_STATIONS, spread
from ovs_vhost_plugin.announce.announcement import Request
from ovs_vhost_plugin.announce.announcer import MANUAL
from ovs_vhost_plugin.announce.formats import Format
from ovs_vhost_plugin.announce.groups import queries
from ovs_vhost_plugin.announce.guest import Change, Guest
from ovs_vhost_plugin.announce.model import Outcome, Result
from ovs_vhost_plugin.announce.rounds import Rounds
from ovs_vhost_plugin.announce.service import AnnounceService
from ovs_vhost_plugin.daemon.guests.claims import NOT_GIVEN, sort_out
from ovs_vhost_plugin.daemon.guests.elsewhere import MAC_ELSEWHERE, Elsewhere, Looked, refused_as
from ovs_vhost_plugin.daemon.guests.places import Owners, given_to, location_of
from ovs_vhost_plugin.daemon.guests.silence import Silence
from ovs_vhost_plugin.daemon.ovsdb.database import Snapshot
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.ovsdb.row_values import parse_mac
from ovs_vhost_plugin.daemon.workers.workers import Ended, Event, Heard
from ovs_vhost_plugin.ipc.commands import Command, ForgetStations, Inject
from ovs_vhost_plugin.ipc.reports import GuestStations, PortState, Rarp, Started, Stats
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station
from ovs_vhost_plugin.vhost.spec import Feature
from ovs_vhost_plugin.vswitchd.unixctl import Switchd

vlog = ovs.vlog.Vlog("vhost_announce")

RARP_ROUNDS = 1.0
"""Seconds after SEND_RARP in which the front-end makes the rounds itself."""

MAX_QUERIED = 8
"""VLANs of a guest that is asked for its multicast groups."""

OF_BEFORE = frozenset({"resumed", "reconnect", "port-moved"})
"""Triggers of guests that were here before: what is known of them may have moved on since."""

Tell = Callable[[str, Command, float], bool]
Waiter = Callable[[Result], None]


class Announcing:
    """The announce service of the switch.

    announced  the last result of each port, as it stands in its row
    """

    def __init__(
        self,
        tell: Tell,
        switchd: Switchd,
        formats: Mapping[str, Format] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tell` sends a command to a port's worker."""
        self.announced: dict[str, str] = {}
        self._tell = tell
        self._clock = clock
        self._service = AnnounceService(
            switchd, inject=self._inject, formats=formats or {}, clock=clock
        )
        self._snapshot: Snapshot | None = None
        self._owners: Owners | None = None
        self._locations: dict[str, Location] = {}
        self._guests: dict[str, Guest] = {}
        self._sockets: dict[str, tuple[str, str]] = {}  # mode and path by which it is the guest's
        self._announces_itself: dict[str, bool] = {}
        self._rarp_at: dict[str, float] = {}
        self._rounds = Rounds()
        self._silence = Silence(tell)
        self._elsewhere = Elsewhere(switchd)
        self._migrates: dict[str, bool] = {}  # or did so when it stopped
        self._waiters: list[tuple[str, Station, Waiter]] = []

    # -- where the ports are ---------------------------------------------------------------------

    def locate(self, snapshot: Snapshot) -> None:
        """Take where the ports are now; a guest whose port was moved is announced there."""
        if snapshot is self._snapshot:
            return
        self._snapshot, self._owners = snapshot, Owners(snapshot)
        self._see_replaced(snapshot)
        rundir = snapshot.switch.rundir
        before = self._locations
        locations = {name: location_of(port, rundir) for name, port in snapshot.ports.items()}
        if locations == before:
            return
        self._locations = locations
        self._service.set_locations(locations)
        for name in before.keys() - locations.keys():
            self._forget(name)
        now = self._clock()
        for name, place in locations.items():
            guest = self._guests.get(name)
            if name not in before or not guest or not guest.running:
                continue
            if before[name].moved_to(place):
                self._begin(name, "port-moved", now, before[name])
            elif before[name].hindered and not place.hindered:
                self._begin(name, "port-forwards", now)

    def _see_replaced(self, snapshot: Snapshot) -> None:
        """A port that has another socket now is another guest's: it is not told what was known."""
        for name, port in snapshot.ports.items():
            socket = port.mode, port.path
            if self._sockets.setdefault(name, socket) != socket:
                self._sockets[name] = socket
                self._rounds.cancel(name)
                self._silence.cancel(name)
                self._guest(name).replaced()

    def _inject(self, port: str, frames: tuple[bytes, ...]) -> bool:
        return self._tell(port, Inject(frames), self._clock())

    def _forget(self, name: str) -> None:
        self._rounds.cancel(name)
        self._elsewhere.cancel(name)
        self._silence.cancel(name)
        self.announced.pop(name, None)
        self._forget_guest(name)
        self._waiters = [waiter for waiter in self._waiters if waiter[0] != name]

    def _forget_guest(self, name: str) -> None:
        """Forget the guest of a port without a row, unless it runs on: a row may be put right."""
        if name not in self._locations and self._guest(name).away:
            del self._guests[name]
            self._sockets.pop(name, None)
            self._announces_itself.pop(name, None)
            self._migrates.pop(name, None)
            self._rarp_at.pop(name, None)

    # -- what workers report ---------------------------------------------------------------------

    def take(self, events: Iterable[Event], now: float) -> None:
        """Announce whose reports ask for it."""
        for event in events:
            match event:
                case Heard(name, Rarp(mac, at)):
                    self._rarp(name, mac, at)
                case Heard(name, GuestStations(stations)):
                    change = self._guest(name).uses(stations, now)
                    if change.trigger:
                        self._begin(name, change.trigger, now)
                case Heard(name, Started(base, sent, moved_in, further)):
                    change = self._guest(name).started(
                        base, sent, now, moved_in=moved_in, further=further
                    )
                    self._changed(name, change, now)
                case Heard(name, PortState() as state):
                    self._announces_itself[name] = state.has(Feature.GUEST_ANNOUNCE.mask)
                    self._changed(name, self._guest(name).told(state.status, now), now)
                    self._see_migrating(name, state, now)
                case Heard(name, Stats(request, stats)):
                    if self._silence.answered(name, request, stats):
                        self._begin(name, "guest-silent", now)
                case Ended(name):
                    self._changed(name, self._guest(name).ended(now), now)
                    self._forget_guest(name)

    def _see_migrating(self, name: str, state: PortState, now: float) -> None:
        """What has moved on does not go along with a guest that begins to migrate."""
        migrates, place = state.has(Feature.LOG_ALL.mask), self._locations.get(name)
        if not self._guest(name).running:
            return
        began, self._migrates[name] = migrates and not self._migrates.get(name), migrates
        if began and place is not None:
            self._elsewhere.look(name, "", place, self._guest(name).known(now), now)

    def _guest(self, name: str) -> Guest:
        return self._guests.setdefault(name, Guest())

    def _rarp(self, name: str, mac: bytes, at: float) -> None:
        self._guest(name).rarp(mac)
        self._rarp_at[name] = at
        self._rounds.cancel(name)  # the front-end makes them
        port = self._port(name)
        if port is not None and port.announce.enabled:
            self._request(port, "send-rarp", at)
            if self._guest(name).running:
                self._ask_for_groups(port)

    def _changed(self, name: str, change: Change, now: float) -> None:
        if change.stopped:
            self._rounds.cancel(name)
            self._silence.cancel(name)
            self._elsewhere.cancel(name)
            self._service.withdraw(name, "its guest has stopped")
        if change.trigger:
            self._begin(name, change.trigger, now)
            port = self._port(name)
            if port is not None and port.announce.guest_silent and self._announces_itself[name]:
                due_at = now + port.announce.guest_silent / 1e3
                self._silence.watch(name, self._guest(name).sent_at_start, due_at)

    # -- announcing ------------------------------------------------------------------------------

    def _begin(self, name: str, trigger: str, now: float, before: Location | None = None) -> None:
        """Announce all that the guest uses, and again in rounds.

        If it was there before, what peers say of it is first looked for in the bridge's table, as
        far as rows let it through.
        """
        port = self._port(name)
        if port is None or not port.announce.enabled:
            return
        given = {one.mac for one in given_to(port)}
        allowed = sort_out(port, self._locations[name], self._guest(name).known(now)).allowed
        claims = [one for one in allowed if one.mac not in given]
        stayed = trigger in OF_BEFORE and not self._migrates.get(name)
        if claims and stayed:
            place = before or self._locations[name]
            self._elsewhere.look(name, trigger, place, claims, now)
        else:
            self._begin_rounds(port, trigger, now)

    def _looked(self, looked: Looked, now: float) -> None:
        """Forget what has moved on, here and in the worker, and announce the rest."""
        name, moved, port = looked.port, looked.moved, self._port(looked.port)
        if moved:
            self._guest(name).moved_on(moved)
            self._tell(name, ForgetStations(tuple(moved)), now)
        if port is None or not looked.trigger:
            return
        refused = [(Station(*key), refused_as(where)) for key, where in moved.items()]
        self._announce(port, (), refused, looked.trigger, now)
        self._begin_rounds(port, looked.trigger, now)

    def _ask_for_groups(self, port: PortSpec) -> None:
        """Have the guest tell a bridge that snoops which multicast groups it is in."""
        if not port.snoops:
            return
        own = parse_mac(min(self._own_macs(port.bridge), default=""))
        if own is None:
            return
        place, known = self._locations[port.name], self._guest(port.name).known(self._clock())
        stations = spread((*given_to(port), *known), place)
        likely = dict.fromkeys((0, *sorted(one.vlan for one in stations), *place.vlan.listed))
        for vlan in [vlan for vlan in likely if place.vlan.carries(vlan)][:MAX_QUERIED]:
            self._service.query(port.name, queries(own, vlan))

    def _own_macs(self, bridge: str) -> set[str]:
        return set() if self._snapshot is None else self._snapshot.own_macs.get(bridge, set())

    def _begin_rounds(self, port: PortSpec, trigger: str, now: float) -> None:
        name = port.name
        self._ask_for_groups(port)
        if not self._request(port, trigger, now):
            vlog.info(f"{name}: {trigger}, and no address is known yet that its port carries")
            self._guest(name).unnamed(trigger, now)
        elif self._locations[name].vlan.isolated:
            self._rounds.cancel(name)  # and begin where it is wired: it has moved then
        elif now - self._rarp_at.get(name, -RARP_ROUNDS) >= RARP_ROUNDS:
            self._rounds.begin(name, trigger, port.announce, now)

    def _request(self, port: PortSpec, trigger: str, at: float) -> tuple[Station, ...]:
        """Announce what the guest is known to use; the stations that this was about."""
        claims = self._guest(port.name).known(self._clock())
        found = sort_out(port, self._locations[port.name], claims)
        refused = [(one, name.advice) for one, name in found.refused]
        return self._announce(port, found.allowed, refused, trigger, at)

    def _announce(
        self,
        port: PortSpec,
        allowed: tuple[Station, ...],
        refused: Iterable[tuple[Station, str]],
        trigger: str,
        at: float,
    ) -> tuple[Station, ...]:
        assert self._owners is not None
        place = self._locations[port.name]
        # Of what it is in no VLAN to announce, the result says so.
        spreaded = allowed[:MAX_STATIONS] if place.vlan.isolated else spread(allowed, place)
        running = {name for name, guest in self._guests.items() if guest.running}
        foreign = [self._owners.foreign(one.mac, port, running) for one in spreaded]
        asked = (*zip(spreaded, foreign, strict=True), *refused)
        for station, refusal in asked:
            request = Request(port.name, station, trigger, at, port.announce)
            self._service.request(request, refusal)
        return tuple(station for station, _ in asked)

    def known(self, port: PortSpec) -> bool:
        """Whether anything is known of the guest of `port`, by whomever."""
        return bool(given_to(port) or self._guest(port.name).known(self._clock()))

    def by_hand(self, port: PortSpec, mac: bytes | None, waiter: Waiter) -> bool:
        """Announce all stations, or `mac` only; `waiter` is called with the first's result.

        Who names a MAC here is the administrator, and so it is the guest's. False if there is
        nothing to announce, or nothing that the port carries.
        """
        claims = self._guest(port.name).known(self._clock())
        found = sort_out(port, self._locations[port.name], claims, by_hand=mac)
        allowed = tuple(one for one in found.allowed if mac is None or one.mac == mac)
        # what may not be announced is of interest where there is nothing else
        refused = [] if allowed else [(one, name.advice) for one, name in found.refused[:1]]
        asked = self._announce(port, allowed, refused, MANUAL, self._clock())
        if not asked:
            return False
        self._waiters.append((port.name, asked[0], waiter))
        self.run()
        return True

    def _port(self, name: str) -> PortSpec | None:
        return None if self._snapshot is None else self._snapshot.ports.get(name)

    # -- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        """Do what can be done at once, pass on what came of it."""
        now = self._clock()
        for name, trigger in self._rounds.due(now):
            port = self._port(name)
            if port is not None and port.announce.enabled:
                self._request(port, trigger, now)
                self._ask_for_groups(port)
        self._silence.run(now)
        self._service.run()
        for looked in self._elsewhere.take_done():
            self._looked(looked, now)
            self._service.run()
        for result in self._service.take_results():
            summary = result.summary()
            vlog.info(f"{result.port}: announced {summary}")
            if not self._beside_the_point(result):
                self.announced[result.port] = summary
            key = result.port, result.mac, result.vlan
            answered = [w for w in self._waiters if (w[0], w[1].mac, w[1].vlan) == key]
            self._waiters = [w for w in self._waiters if w not in answered]
            for _, _, waiter in answered:
                waiter(result)

    def _beside_the_point(self, result: Result) -> bool:
        """Whether it says only that a peer claims more than the rows give, which is announced."""
        port = self._port(result.port)
        if result.outcome is not Outcome.REFUSED or port is None:
            return False
        name = result.reason.partition(":")[0]
        return bool(given_to(port)) and name in NOT_GIVEN | {MAC_ELSEWHERE}

    def wait(self, poller: Any) -> None:
        """Register what `run` has to be called for."""
        self._service.wait(poller)
        for at in (self._rounds.wake_at(), self._silence.wake_at()):
            if at is not None:
                poller.timer_wait_until(at * 1e3)

    def counters(self) -> dict[str, int]:
        """The service's totals."""
        return self._service.counters()

    def history(self) -> list[dict[str, str | int | float | None]]:
        """The last announcements that ended, oldest first."""
        return self._service.history()

    def close(self) -> None:
        """Leave the bridges."""
        self._service.close()
