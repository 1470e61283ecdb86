# SPDX-License-Identifier: Apache-2.0
"""Frames held for guests that have left: forwarded to where the bridge learns them.

    LOG_ALL ──► whose addresses has the bridge on this port?
    holding ──► read the MAC table again and again ──► an address is on another port
            ──► release to the worker ──► held ──► packet-outs to that port, a barrier ──► release …

All of it is asked for by a worker, which a guest may have taken over. So a port has its `Allowance`
of holds, frames and time, a table is read at a pace that costs ovs-vswitchd little, a worker is
asked for one batch at a time, and `Departure` decides, by rows and tables, what may go where.
"""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, assert_never

import ovs.vlog

from ovs_vhost_plugin.announce.history import History
from ovs_vhost_plugin.daemon.guests.allowance import HOLD_LIMIT, SECONDS, Allowance
from ovs_vhost_plugin.daemon.guests.leaving import Leaving, Record
from ovs_vhost_plugin.daemon.guests.places import Owners, location_of
from ovs_vhost_plugin.daemon.ovsdb.database import Snapshot
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.workers.workers import Ended, Event, Heard
from ovs_vhost_plugin.forward.departure import Departure
from ovs_vhost_plugin.forward.onward import Rows, Unfit
from ovs_vhost_plugin.ipc.commands import Command, Release
from ovs_vhost_plugin.ipc.reports import HeldFrames, HoldState, PortState
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.vlan import PortVlan
from ovs_vhost_plugin.openflow.connection import BridgeConnection
from ovs_vhost_plugin.openflow.wire import Output
from ovs_vhost_plugin.vhost.spec import Feature
from ovs_vhost_plugin.vswitchd.unixctl import Answer, NoAnswer, Question, Switchd

vlog = ovs.vlog.Vlog("vhost_forward")

PAUSE = 0.005
"""Seconds between two batches when the first has left nothing: stragglers come in ones."""
SIGHTS = 8
"""Times in a hold that the log says where the guest is."""
_LOCALLY_ADMINISTERED = b"\x02"  # IEEE 802: the second bit of a MAC's first byte

Send = Callable[[str, Command, float], bool]


class Forwarding:
    """The forwarding of all ports. `send` gives a command to a port's worker, if it is there."""

    def __init__(self, send: Send, switchd: Switchd) -> None:
        self.counters: Counter[str] = Counter()
        self.history: History[Record] = History()
        self._send = send
        self._snapshot: Snapshot | None = None
        self._owners: Owners | None = None
        self._rows: dict[str, Rows] = {}  # of the snapshot
        self._switchd = switchd
        self._ports: dict[str, Leaving] = {}
        self._allowances: dict[str, Allowance] = {}
        self._request = 0

    def locate(self, snapshot: Snapshot) -> None:
        """Take where the ports are now."""
        if snapshot is not self._snapshot:
            self._snapshot, self._owners, self._rows = snapshot, Owners(snapshot), {}
        for name in self._ports.keys() - snapshot.ports.keys():
            self._forget(name)
        for name in self._allowances.keys() - snapshot.ports.keys():
            del self._allowances[name]

    def take(self, events: list[Event], now: float) -> None:
        """Take what the workers reported."""
        for event in events:
            match event:
                case Heard(name, PortState() as state):
                    self._state(name, state, now)
                case Heard(name, HoldState() as holding):
                    self._holding(name, holding, now)
                case Heard(name, HeldFrames() as held):
                    self._held(name, held, now)
                case Ended(name):
                    self._forget(name)

    def run(self, now: float) -> None:
        """Do what can be done at once."""
        if self._snapshot is None:
            return
        self._look(now)
        for name, port in list(self._ports.items()):
            if port.lasts_until is not None and now >= port.lasts_until:
                self._over(name, port, f"more than {SECONDS:g} s", now)
                continue
            self._settle(name, port)
            self._deliver(port, now)
            self._release(name, port, now)

    def wait(self, poller: Any) -> None:
        """Register what `run` has to be called for."""
        under_way = self._under_way()
        for name, port in self._ports.items():
            if port.bridge is not None:
                port.bridge.wait(poller)
            if port.lasts_until is not None:
                poller.timer_wait_until(port.lasts_until * 1e3)
            look_at = port.departure.look_at
            if look_at is not None and self._bridge(name) not in under_way:
                poller.timer_wait_until(look_at * 1e3)
            if port.may_release():
                poller.timer_wait_until(port.release_at * 1e3)

    def close(self) -> None:
        """Leave the switch."""
        for name in list(self._ports):
            self._forget(name)

    # -- what the workers say --------------------------------------------------------------------

    def _state(self, name: str, state: PortState, now: float) -> None:
        """A guest that begins to migrate: the bridge still has all its addresses here."""
        migrates = state.has(Feature.LOG_ALL.mask)
        known = self._ports.get(name)
        if migrates and known is None and self._forwards(name):
            if self._allowance(name, now).look(now):
                self._ports[name] = Leaving(Departure(now))
            else:
                self.counters["looks-refused"] += 1
        elif not migrates and known is not None and known.hold is None:
            self._forget(name)

    def _holding(self, name: str, holding: HoldState, now: float) -> None:
        port = self._ports.get(name)
        if not holding.active:
            if port is not None and port.hold == holding.hold:
                self._ended(name, port, holding, now)
            return
        if port is None or port.hold != holding.hold:
            if not self._forwards(name) or not self._allowance(name, now).hold(now):
                self.counters["holds-refused"] += 1
                return
            self.counters["holds"] += 1
            if port is None or port.hold is not None:
                self._forget(name)
                port = self._ports[name] = Leaving(Departure(now))
            port.hold = holding.hold
            port.bridge = BridgeConnection(self._place(name).mgmt_path)
        if port.bridge is not None:
            port.departure.hold(holding.stations, now, holding.sighted)

    def _held(self, name: str, held: HeldFrames, now: float) -> None:
        """Forward a batch that was asked for; anything else means nothing."""
        port = self._ports.get(name)
        if port is None or port.bridge is None or held.id not in port.released:
            self.counters["frames-unasked"] += len(held.frames)
            return
        port.released = {n: stations for n, stations in port.released.items() if n > held.id}
        port.release_at = now if held.left else now + PAUSE
        frames = held.frames
        over = self._allowance(name, now).batch(len(frames), sum(map(len, frames)), now)
        if over:
            self._refuse(port, "over-limit", len(frames))
            self._over(name, port, over, now)
            return
        place, rows = self._place(name), self._rows_at(name)
        for parcel in port.departure.parcels(frames, place, self._vlans(name), rows):
            if isinstance(parcel, Unfit):
                self._refuse(port, parcel.value)
            else:
                port.queue.append(parcel)

    def _refuse(self, port: Leaving, name: str, count: int = 1) -> None:
        port.refused[name] += count
        self.counters["frames-unfit"] += count
        self.counters[f"frames-{name}"] += count

    def _over(self, name: str, port: Leaving, what: str, now: float) -> None:
        """End a hold for the daemon's part, whatever its worker does."""
        self.counters[HOLD_LIMIT] += 1
        self._record(name, port, {}, now, what)
        if port.bridge is not None:
            self.counters["frames-lost"] += len(port.queue)
            port.bridge.close()
        # Its number stays known, so that it does not begin again.
        self._ports[name] = Leaving(Departure(now), port.hold)
        self._ports[name].departure.look_at = None

    def _ended(self, name: str, port: Leaving, holding: HoldState, now: float) -> None:
        if port.bridge is not None:
            self._record(name, port, holding.counts, now)
        self._forget(name)

    def _record(
        self, name: str, port: Leaving, counts: dict[str, int], now: float, over: str = ""
    ) -> None:
        departure = port.departure
        places = {station.encode(): port for station, port in departure.places.items()}
        record = Record(name, departure.began, now, counts, places, dict(port.refused), over)
        self.history.append(record)
        say = vlog.warn if over else vlog.info
        say(f"{name}: {record.summary()}")

    # -- the switch ------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Ask for the tables that are due, each bridge's once at a time."""
        due: set[str] = set()
        under_way = self._under_way()
        for name, port in self._ports.items():
            look_at = port.departure.look_at
            bridge = self._bridge(name)
            if look_at is not None and now >= look_at and bridge not in under_way:
                port.asked = True
                due.add(bridge)
        for bridge in due:
            question = Question("fdb/show", (bridge,))
            self._switchd.ask(question, partial(self._answered, bridge), now)

    def _answered(self, bridge: str, reply: Answer | NoAnswer, now: float) -> None:
        for name, port in self._ports.items():
            if not port.asked or self._bridge(name) != bridge:
                continue
            port.asked = False
            match reply:
                case Answer(text):
                    self._table(name, text, now)
                case NoAnswer():
                    port.departure.no_table(now)
                case _:
                    assert_never(reply)

    def _table(self, name: str, text: str, now: float) -> None:
        port = self._ports[name]
        if port.departure.table(text, self._place(name), self._rows_at(name), now):
            port.release_at = now
            port.sights += 1
            if port.sights <= SIGHTS:
                found = ", ".join(
                    f"{s.encode()} on port {p}" for s, p in port.departure.places.items()
                )
                vlog.info(f"{name}: forwarding what is held: {found:.200}")

    def _settle(self, name: str, port: Leaving) -> None:
        """Have the bridge count: the guest's last frames before it has moved, its first after.

        The last, counted later, would move its address back to this port, in a bridge that has
        learned the new one.
        """
        if port.bridge is None or not port.bridge.idle:
            return
        place = self._place(name)
        nobody = _LOCALLY_ADMINISTERED + os.urandom(5)
        frame = port.departure.settling(nobody, place)
        if frame is not None:
            port.bridge.packet_out(place.ofport, frame, Output.NORMAL)

    def _deliver(self, port: Leaving, now: float) -> None:
        if port.bridge is None:
            return
        done = port.bridge.run(now)
        if port.queue and port.bridge.idle:
            port.bridge.packets_to(port.queue, now)
            port.queue = []
            done += port.bridge.run(now)
        for batch in done:
            if batch.lost:
                self.counters["frames-lost"] += batch.sent
                vlog.warn(f"{batch.sent} held frames may not have been forwarded: {batch.lost}")
            else:
                self.counters["frames-forwarded"] += batch.sent - len(batch.refused)
                self.counters["frames-refused"] += len(batch.refused)

    def _release(self, name: str, port: Leaving, now: float) -> None:
        """Ask the worker for the next batch, once the one before has arrived."""
        if not port.may_release() or now < port.release_at:
            return
        stations = port.departure.places.keys()
        self._request += 1
        if self._send(name, Release(self._request, tuple(stations)), now):
            port.released[self._request] = frozenset(stations)

    # -- what is known ---------------------------------------------------------------------------

    def _forwards(self, name: str) -> bool:
        return (
            self._snapshot is not None
            and name in self._snapshot.ports
            and self._spec(name).settings.hold
        )

    def _spec(self, name: str) -> PortSpec:
        assert self._snapshot is not None
        return self._snapshot.ports[name]

    def _bridge(self, name: str) -> str:
        return self._spec(name).bridge

    def _place(self, name: str) -> Location:
        assert self._snapshot is not None
        return location_of(self._spec(name), self._snapshot.switch.rundir)

    def _vlans(self, name: str) -> dict[int, PortVlan]:
        """How the ports of its bridge treat VLANs, by OpenFlow number."""
        assert self._snapshot is not None
        here = self._bridge(name)
        return {n: vlan for (bridge, n), vlan in self._snapshot.vlans.items() if bridge == here}

    def _rows_at(self, name: str) -> Rows:
        assert self._owners is not None
        if name not in self._rows:
            self._rows[name] = self._owners.rows_at(self._spec(name))
        return self._rows[name]

    def _under_way(self) -> set[str]:
        return {self._bridge(name) for name, port in self._ports.items() if port.asked}

    def _allowance(self, name: str, now: float) -> Allowance:
        return self._allowances.setdefault(name, Allowance(now))

    def _forget(self, name: str) -> None:
        port = self._ports.pop(name, None)
        if port is not None and port.bridge is not None:
            self.counters["frames-lost"] += len(port.queue)
            port.bridge.close()

    def log(self) -> list[dict[str, Any]]:
        """The holds that ended, oldest first, as plain values."""
        return [asdict(record) for record in self.history]
