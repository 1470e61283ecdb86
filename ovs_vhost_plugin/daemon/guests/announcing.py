# SPDX-License-Identifier: Apache-2.0
"""Wires announce/ to workers, rows and the switch; results go to the log and to the rows.

`Guests` decides who is to be announced, `AnnounceService` does it. Here their actions are carried
out, and what workers report becomes their input.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, assert_never

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
from ovs_vhost_plugin.announce.formats import Format
from ovs_vhost_plugin.announce.guests.elsewhere import Look
from ovs_vhost_plugin.announce.guests.guests import Guests
from ovs_vhost_plugin.announce.guests.port import GuestPort
from ovs_vhost_plugin.announce.result import Result
from ovs_vhost_plugin.announce.service import AnnounceService
from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.daemon.events import Ended, Event, Heard
from ovs_vhost_plugin.daemon.guests.moves import Moves
from ovs_vhost_plugin.daemon.guests.places import Owners
from ovs_vhost_plugin.daemon.ovsdb.snapshot import Snapshot
from ovs_vhost_plugin.ipc.commands import Command, ForgetStations, GetStats, Inject
from ovs_vhost_plugin.ipc.reports import GuestStations, PortState, Rarp, Started, Stats
from ovs_vhost_plugin.metrics.histogram import Histogram
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import StationKey
from ovs_vhost_plugin.vhost.spec import Feature
from ovs_vhost_plugin.vswitchd.unixctl import Answer, NoAnswer, Question, Switchd

vlog = Vlog("vhost_announce")

Tell = Callable[[str, Command, float], bool]
Waiter = Callable[[Result], None]


class Announcing:
    """The announcements of all ports.

    announced  the last result of each port, as it stands in its row
    durations  the seconds from request to confirmation, by trigger
    on_result  called with each result
    """

    def __init__(
        self,
        tell: Tell,
        switchd: Switchd,
        moves: Moves,
        formats: Mapping[str, Format] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tell` sends a command to a port's worker; False: there is none."""
        self._moves = moves
        self.announced: dict[str, str] = {}
        self.durations: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.on_result: Callable[[Result], object] = lambda _: None
        self._tell = tell
        self._switchd = switchd
        self._clock = clock
        self._service = AnnounceService(
            switchd, inject=self._inject, formats=formats or {}, clock=clock
        )
        self._guests = Guests()
        self._snapshot: Snapshot | None = None
        self._owners: Owners | None = None
        self._ports: dict[str, GuestPort] = {}
        self._locations: dict[str, Location] = {}
        self._news: set[str] = set()
        self._waiters: list[tuple[str, StationKey, Waiter]] = []

    def locate(self, snapshot: Snapshot) -> None:
        """Take where the ports are now; a guest whose port was moved is announced there."""
        if snapshot is self._snapshot:
            return
        changed = snapshot.changed_since(self._snapshot)
        if self._owners is None:
            self._owners = Owners(snapshot)
        else:
            self._owners.follow(snapshot)
        self._snapshot = snapshot
        ports, locations = dict(self._ports), dict(self._locations)
        for name in changed:
            if (port := snapshot.ports.get(name)) is None:
                self._forget(name)
                ports.pop(name, None)
                locations.pop(name, None)
            else:
                ports[name] = self._owners.guest_port(port)
                locations[name] = ports[name].location
        self._ports, self._locations = ports, locations
        self._service.set_locations(locations)
        self._guests.set_ports(ports, self._owners.mac_conflict, self._clock(), changed)
        self._carry_out()

    def take(self, events: Iterable[Event], now: float) -> None:
        """Take the workers' reports; announce the guests for which they ask."""
        guests = self._guests
        for event in events:
            match event:
                case Heard(name, Rarp(mac, at)):
                    guests.rarp(name, mac, at, now)
                case Heard(name, GuestStations(stations)):
                    guests.learned(name, stations, now)
                case Heard(name, Started(base, sent, moved_in, further)):
                    guests.started(name, base, sent, now, moved_in=moved_in, further=further)
                case Heard(name, PortState() as state):
                    guests.status(
                        name,
                        state.status,
                        now,
                        announces_itself=state.has(Feature.GUEST_ANNOUNCE.mask),
                        migrates=state.has(Feature.LOG_ALL.mask),
                    )
                case Heard(name, Stats(request, stats)):
                    guests.counted(name, request, _frames_sent(stats), now)
                case Ended(name):
                    guests.ended(name, now)
        self._carry_out()

    def _forget(self, name: str) -> None:
        self.announced.pop(name, None)
        self._waiters = [waiter for waiter in self._waiters if waiter[0] != name]

    def known(self, name: str) -> bool:
        """Whether an address of the guest of a port is known, by whomever."""
        return self._guests.known(name, self._clock())

    def by_hand(self, name: str, mac: bytes | None, waiter: Waiter) -> bool:
        """Announce all stations of a port, or `mac` only.

        `waiter` is called with the first's result. False if there is nothing to announce, or
        nothing that the port carries.
        """
        first = self._guests.by_hand(name, mac, self._clock())
        if first is None:
            return False
        self._waiters.append((name, first.key, waiter))
        self.run()
        return True

    def run(self) -> None:
        """Do all that can be done at once, and publish the results."""
        self._guests.handle_timer(self._clock())
        self._carry_out()
        self._service.run()
        if self._carry_out():
            self._service.run()
        for result in self._service.take_results():
            self._publish(result)

    def wait(self, poller: Any) -> None:
        """Register the events that `run` waits for, but for answers of the switch."""
        self._service.wait(poller)
        timer = self._guests.get_timer()
        if timer is not None:
            poller.timer_wait_until(timer * 1e3)

    def take_news(self) -> set[str]:
        """The ports with another last result than at the last call."""
        news, self._news = self._news, set()
        return news

    def counters(self) -> dict[str, int]:
        """The service's totals."""
        return self._service.counters()

    def history(self) -> list[dict[str, str | int | float | None]]:
        """The last announcements that ended, oldest first."""
        return self._service.history()

    def close(self) -> None:
        """Leave the bridges."""
        self._service.close()

    def _publish(self, result: Result) -> None:
        summary = result.summary()
        log = vlog.info if self._moves.announced(result) else vlog.dbg
        log(f"{result.port}: announced {summary}")
        self.on_result(result)
        if result.milliseconds is not None:
            self.durations[result.trigger].observe(result.milliseconds / 1e3)
        if self._guests.worth_publishing(result):
            self.announced[result.port] = summary
            self._news.add(result.port)
        key = result.port, StationKey(result.mac, result.vlan)
        answered = [waiter for waiter in self._waiters if waiter[:2] == key]
        self._waiters = [waiter for waiter in self._waiters if waiter not in answered]
        for _, _, waiter in answered:
            waiter(result)

    # -- actions ----------------------------------------------------------------------------------

    def _carry_out(self) -> bool:
        """Carry out the actions of the guests; whether there were any."""
        for one in self._guests.take_arrivals():
            self._moves.arrived(one.port, one.trigger, one.at)
        actions = self._guests.take_actions()
        for action in actions:
            self._do(action, self._clock())
        return bool(actions)

    def _do(self, action: GuestAction, now: float) -> None:
        match action:
            case Announce(request, refusal):
                self._service.request(request, refusal)
            case Withdraw(port, reason, macs):
                self._service.withdraw(port, reason, macs)
            case Query(port, frames):
                self._service.query(port, frames)
            case FindMoved(look):
                question = Question("fdb/show", (look.place.bridge,))
                self._switchd.ask(question, partial(self._take_table, look), now)
            case TellMoved(port, stations):
                self._tell(port, ForgetStations(stations), now)
            case AskSent(port, request_id):
                if not self._tell(port, GetStats(request_id), now):
                    self._guests.no_worker(port)
            case NothingKnown(port, trigger):
                vlog.info(f"{port}: {trigger}, and no address is known yet that its port carries")
            case _:
                assert_never(action)

    def _take_table(self, look: Look, reply: Answer | NoAnswer, now: float) -> None:
        self._guests.table(look, reply.text if isinstance(reply, Answer) else "", now)

    def _inject(self, port: str, frames: tuple[bytes, ...]) -> bool:
        return self._tell(port, Inject(frames), self._clock())


def _frames_sent(stats: dict[str, Any]) -> int:
    """The frames that a guest has sent, by its worker's counters."""
    pairs = stats.get("queue_pairs") or []
    counts = [one.get("tx_packets") for one in pairs if isinstance(one, dict)]
    return sum(count for count in counts if isinstance(count, int))
