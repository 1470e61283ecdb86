# SPDX-License-Identifier: Apache-2.0
"""Frames held for guests that have left: forwarded to where the bridge learns them.

    LOG_ALL ──► whose addresses has the bridge on this port?
    holding ──► read the MAC table again and again ──► an address is on another port
            ──► release to the worker ──► held ──► packet-outs to that port, a barrier ──► release …

All of it is asked for by a worker, which a guest may have taken over. So a port has so many holds
and no more, a table is read at a pace that costs ovs-vswitchd little, a worker is asked for one
batch at a time, and `Departure` decides what may go where.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from typing import Any

import ovs.vlog

from ovs_vhost_plugin.announce.departure import Departure, Parcel
from ovs_vhost_plugin.announce.limit import TokenBucket
from ovs_vhost_plugin.announce.parcels import ParcelService
from ovs_vhost_plugin.announce.switchd import Answer, Question, Switchd
from ovs_vhost_plugin.daemon.ovsdb import Snapshot
from ovs_vhost_plugin.daemon.places import location_of
from ovs_vhost_plugin.daemon.reports import Held, Holding, State
from ovs_vhost_plugin.daemon.rows import PortSpec, parse_mac
from ovs_vhost_plugin.daemon.workers import Ended, Event, Heard

vlog = ovs.vlog.Vlog("vhost_forward")

HOLDS_PER_SECOND, HOLDS_AT_ONCE = 0.2, 5
"""Migrations of one port; with more, frames stay held and are dropped by the worker."""
PAUSE = 0.005
"""Seconds between two batches when the first has left nothing: stragglers come in ones."""
HISTORY = 256
_LOCALLY_ADMINISTERED = b"\x02"  # IEEE 802: the second bit of a MAC's first byte
_LOG_ALL = 1 << 26  # vhost-user "Migration"

Send = Callable[[str, dict[str, Any], float], bool]


@dataclass(frozen=True, slots=True)
class Record:
    """A hold that has ended: what the worker says became of its frames; times CLOCK_MONOTONIC."""

    port: str
    began_at: float
    ended_at: float
    counts: dict[str, int]
    places: dict[str, int]

    def summary(self) -> str:
        """One line for the log."""
        words = [f"{n} {k.replace('_', ' ')}" for k, n in sorted(self.counts.items())]
        places = [f"{station} on port {port}" for station, port in self.places.items()]
        seconds = self.ended_at - self.began_at
        frames = ", ".join(words) or "no frames"
        return f"held for {seconds:.2f} s: {frames}" + "".join(f"; {p}" for p in places[:4])


@dataclass(slots=True)
class _Port:
    """A port whose guest migrates, or did."""

    departure: Departure
    hold: int | None = None
    parcels: ParcelService | None = None
    released: dict[int, frozenset[str]] = field(default_factory=dict)  # requests not yet answered
    queue: list[Parcel] = field(default_factory=list)  # wait for the batch before them
    release_at: float = 0.0
    asked: bool = False  # for the table

    def may_release(self) -> bool:
        """Whether the worker is to be asked for the next batch.

        While the one before is on its way to its port, and no third one; or when there is more to
        ask for than there was. The worker goes by the last request: none is to wait for another's
        frames, which may not come.
        """
        stations = self.departure.places.keys()
        if not stations or self.parcels is None or not self.parcels.reached or self.queue:
            return False
        asked = max(self.released, default=None)
        return asked is None or self.released[asked] != stations


class Forwarding:
    """The forwarding of all ports. `send` gives a command to a port's worker, if it is there."""

    def __init__(self, send: Send, macs_of: Callable[[PortSpec], Collection[bytes]]) -> None:
        self.counters: Counter[str] = Counter()
        self.history: deque[Record] = deque(maxlen=HISTORY)
        self._send = send
        self._macs_of = macs_of
        self._snapshot: Snapshot | None = None
        self._switchd: Switchd | None = None
        self._rundir = ""
        self._ports: dict[str, _Port] = {}
        self._limits: dict[str, TokenBucket] = {}
        self._request = 0

    def locate(self, snapshot: Snapshot) -> None:
        """Take where the ports are now."""
        self._snapshot = snapshot
        if self._switchd is None or snapshot.switch.rundir != self._rundir:
            if self._switchd is not None:
                self._switchd.close()
            self._rundir = snapshot.switch.rundir
            self._switchd = Switchd(self._rundir)
            for port in self._ports.values():
                port.asked = False
        for name in self._ports.keys() - snapshot.ports.keys():
            self._forget(name)
        for name in self._limits.keys() - snapshot.ports.keys():
            del self._limits[name]

    def take(self, events: list[Event], now: float) -> None:
        """Take what the workers reported."""
        for event in events:
            match event:
                case Heard(name, State() as state):
                    self._state(name, state, now)
                case Heard(name, Holding() as holding):
                    self._holding(name, holding, now)
                case Heard(name, Held() as held):
                    self._held(name, held, now)
                case Ended(name):
                    self._forget(name)

    def run(self, now: float) -> None:
        """Do what can be done at once."""
        if self._switchd is None or self._snapshot is None:
            return
        self._look(now)
        for reply in self._switchd.run(now):
            (bridge,) = reply.question.params
            asking = [n for n, p in self._ports.items() if p.asked and self._bridge(n) == bridge]
            for name in asking:
                self._ports[name].asked = False
                if isinstance(reply, Answer):
                    self._table(name, reply.text, now)
                else:
                    self._ports[name].departure.no_table(now)
        for name, port in list(self._ports.items()):
            self._settle(name, port)
            self._deliver(port, now)
            self._release(name, port, now)

    def wait(self, poller: Any) -> None:
        """Register what `run` has to be called for."""
        if self._switchd is not None:
            self._switchd.wait(poller)
        under_way = self._under_way()
        for name, port in self._ports.items():
            if port.parcels is not None:
                port.parcels.wait(poller)
            look_at = port.departure.look_at
            if look_at is not None and self._bridge(name) not in under_way:
                poller.timer_wait_until(look_at * 1e3)
            if port.may_release():
                poller.timer_wait_until(port.release_at * 1e3)

    def close(self) -> None:
        """Leave the switch."""
        for name in list(self._ports):
            self._forget(name)
        if self._switchd is not None:
            self._switchd.close()
            self._switchd = None

    # -- what the workers say --------------------------------------------------------------------

    def _state(self, name: str, state: State, now: float) -> None:
        """A guest that begins to migrate: the bridge still has all its addresses here."""
        migrates = state.has(_LOG_ALL)
        known = self._ports.get(name)
        if migrates and known is None and self._forwards(name):
            self._ports[name] = _Port(Departure(now))
        elif not migrates and known is not None and known.hold is None:
            self._forget(name)

    def _holding(self, name: str, holding: Holding, now: float) -> None:
        port = self._ports.get(name)
        if not holding.active:
            if port is not None and port.hold == holding.hold:
                self._ended(name, port, holding, now)
            return
        if port is None or port.hold != holding.hold:
            if not self._forwards(name) or not self._limit(name, now).take(now):
                self.counters["holds-refused"] += 1
                return
            self.counters["holds"] += 1
            if port is None or port.hold is not None:
                self._forget(name)
                port = self._ports[name] = _Port(Departure(now))
            port.hold = holding.hold
            port.parcels = ParcelService(location_of(self._spec(name), self._rundir).mgmt_path)
        port.departure.hold(holding.stations, now, holding.sighted)

    def _held(self, name: str, held: Held, now: float) -> None:
        """Forward a batch that was asked for; anything else means nothing."""
        port = self._ports.get(name)
        if port is None or port.parcels is None or held.id not in port.released:
            self.counters["frames-unasked"] += len(held.frames)
            return
        port.released = {n: stations for n, stations in port.released.items() if n > held.id}
        port.release_at = now if held.left else now + PAUSE
        place, vlans = self._place(name)
        addressed = port.departure.parcels(held.frames, place, vlans, self._own_mac(name))
        parcels = [parcel for parcel in addressed if parcel is not None]
        self.counters["frames-unfit"] += len(addressed) - len(parcels)
        port.queue += parcels

    def _ended(self, name: str, port: _Port, holding: Holding, now: float) -> None:
        places, began = dict(port.departure.places), port.departure.began
        record = Record(name, began, now, holding.counts, places)
        self.history.append(record)
        vlog.info(f"{name}: {record.summary()}")
        self._forget(name)

    # -- the switch ------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Ask for the tables that are due, each bridge's once at a time."""
        assert self._switchd is not None
        due: set[str] = set()
        under_way = self._under_way()
        for name, port in self._ports.items():
            look_at = port.departure.look_at
            bridge = self._bridge(name)
            if look_at is not None and now >= look_at and bridge not in under_way:
                port.asked = True
                due.add(bridge)
        for bridge in due:
            self._switchd.ask(Question("fdb/show", (bridge,)), now)

    def _table(self, name: str, text: str, now: float) -> None:
        spec, (place, vlans) = self._spec(name), self._place(name)
        port = self._ports[name]
        if port.departure.table(text, place, vlans, self._macs_of(spec), now):
            found = ", ".join(f"{s} on port {p}" for s, p in port.departure.places.items())
            vlog.info(f"{name}: forwarding what is held: {found:.200}")
            port.release_at = now

    def _settle(self, name: str, port: _Port) -> None:
        """Have the bridge count: the guest's last frames before it has moved, its first after.

        The last, counted later, would move its address back to this port, in a bridge that has
        learned the new one.
        """
        if port.parcels is None or not port.parcels.ready:
            return
        place, vlans = self._place(name)
        nobody = _LOCALLY_ADMINISTERED + os.urandom(5)
        frame = port.departure.settling(nobody, place, vlans)
        if frame is not None:
            port.parcels.teach(place.ofport, frame)

    def _deliver(self, port: _Port, now: float) -> None:
        if port.parcels is None:
            return
        batch = port.parcels.run(now)
        if port.queue and port.parcels.ready:
            port.parcels.send(port.queue, now)
            port.queue = []
            batch = port.parcels.run(now) or batch
        if batch is None:
            return
        if batch.lost:
            self.counters["frames-lost"] += batch.sent
            vlog.warn(f"{batch.sent} held frames may not have been forwarded: {batch.lost}")
        else:
            self.counters["frames-forwarded"] += batch.sent - batch.refused
            self.counters["frames-refused"] += batch.refused

    def _release(self, name: str, port: _Port, now: float) -> None:
        """Ask the worker for the next batch when it may be."""
        if not port.may_release() or now < port.release_at:
            return
        stations = port.departure.places.keys()
        self._request += 1
        command = {"op": "release", "id": self._request, "stations": list(stations)}
        if self._send(name, command, now):
            port.released[self._request] = frozenset(stations)

    # -- what is known ---------------------------------------------------------------------------

    def _forwards(self, name: str) -> bool:
        return (
            self._snapshot is not None and name in self._snapshot.ports and self._spec(name).holds
        )

    def _spec(self, name: str) -> PortSpec:
        assert self._snapshot is not None
        return self._snapshot.ports[name]

    def _bridge(self, name: str) -> str:
        return self._spec(name).bridge

    def _place(self, name: str) -> Any:
        assert self._snapshot is not None
        place = location_of(self._spec(name), self._rundir)
        vlans = {
            n: vlan for (bridge, n), vlan in self._snapshot.vlans.items() if bridge == place.bridge
        }
        return place, vlans

    def _own_mac(self, name: str) -> bytes | None:
        """The host's MAC on the port's bridge: of one of the bridge's internal ports."""
        assert self._snapshot is not None
        return parse_mac(min(self._snapshot.own_macs.get(self._bridge(name), ()), default=""))

    def _under_way(self) -> set[str]:
        return {self._bridge(name) for name, port in self._ports.items() if port.asked}

    def _limit(self, name: str, now: float) -> TokenBucket:
        fresh = TokenBucket(HOLDS_PER_SECOND, HOLDS_AT_ONCE, now)
        return self._limits.setdefault(name, fresh)

    def _forget(self, name: str) -> None:
        port = self._ports.pop(name, None)
        if port is not None and port.parcels is not None:
            self.counters["frames-lost"] += len(port.queue)
            port.parcels.close()

    def log(self) -> list[dict[str, Any]]:
        """The holds that ended, oldest first, as plain values."""
        return [asdict(record) for record in self.history]
