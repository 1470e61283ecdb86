# SPDX-License-Identifier: Apache-2.0
"""Wires forward/ to workers, bridges and rows: frames held for guests that have left.

All of it is asked for by a worker, which a guest may have taken over. So a port has its `Allowance`
of holds, frames and time, a table is read at a pace that costs ovs-vswitchd little, a worker is
asked for one batch at a time, and `MacTracker` decides, by rows and tables, what may go where.
"""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, assert_never

from ovs_vhost_plugin.common.history import History
from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.daemon.events import Ended, Event, Heard
from ovs_vhost_plugin.daemon.guests.moves import Moves
from ovs_vhost_plugin.daemon.guests.places import Owners, location_of
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.ovsdb.snapshot import Snapshot
from ovs_vhost_plugin.forward.allowance import HOLD_LIMIT, SECONDS, Allowance
from ovs_vhost_plugin.forward.hold import PortHold, Record
from ovs_vhost_plugin.forward.rewrite import Rows
from ovs_vhost_plugin.ipc.commands import Command, Release
from ovs_vhost_plugin.ipc.reports import HeldFrames, HoldState, PortState
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.vlan import PortVlan
from ovs_vhost_plugin.openflow.connection import BridgeConnection
from ovs_vhost_plugin.openflow.wire import Output
from ovs_vhost_plugin.vhost.spec import Feature
from ovs_vhost_plugin.vswitchd.unixctl import Answer, NoAnswer, Question, Switchd

vlog = Vlog("vhost_forward")

SIGHTS = 8
"""Times in a hold that the log says where the guest is."""
_LOCALLY_ADMINISTERED = b"\x02"  # IEEE 802: the second bit of a MAC's first byte

Send = Callable[[str, Command, float], bool]


@dataclass(slots=True)
class _Port:
    """A port's hold, and the connection that it sends by.

    asked   the bridge's MAC table has been asked for
    sights  times that the log said where the guest is
    """

    hold: PortHold
    bridge: BridgeConnection | None = None
    asked: bool = False
    sights: int = 0

    @property
    def idle(self) -> bool:
        """Whether the bridge can take a batch now."""
        return self.bridge is not None and self.bridge.idle


class Forwarding:
    """The forwarding of all ports. `send` gives a command to a port's worker, if it is there."""

    def __init__(self, send: Send, switchd: Switchd, moves: Moves) -> None:
        self._moves = moves
        self.counters: Counter[str] = Counter()
        self.history: History[Record] = History()
        self._send = send
        self._snapshot: Snapshot | None = None
        self._owners: Owners | None = None
        self._rows: dict[str, Rows] = {}  # of the snapshot
        self._switchd = switchd
        self._ports: dict[str, _Port] = {}
        self._allowances: dict[str, Allowance] = {}
        self._request = 0

    def locate(self, snapshot: Snapshot) -> None:
        """Take where the ports are now."""
        if snapshot is self._snapshot:
            return
        if self._owners is None:
            self._owners = Owners(snapshot)
        else:
            self._owners.follow(snapshot)
        self._snapshot, self._rows = snapshot, {}
        for name in [name for name in self._ports if name not in snapshot.ports]:
            self._forget(name)
        for name in [name for name in self._allowances if name not in snapshot.ports]:
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
        """Do all that can be done at once."""
        if self._snapshot is None:
            return
        self._ask_tables(now)
        for name, port in list(self._ports.items()):
            ends_at = port.hold.lasts_until
            if ends_at is not None and now >= ends_at:
                self._over(name, port, f"more than {SECONDS:g} s", now)
            elif port.bridge is not None:
                self._flush(name, port.hold, port.bridge)
                self._deliver(name, port.hold, port.bridge, now)
                self._release(name, port, now)

    def wait(self, poller: Any) -> None:
        """Register the events that `run` waits for."""
        asked = self._asked_bridges()
        for name, port in self._ports.items():
            if port.bridge is not None:
                port.bridge.wait(poller)
            look_at = None if self._bridge(name) in asked else port.hold.tracker.get_timer()
            for at in (look_at, port.hold.get_timer(idle=port.idle)):
                if at is not None:
                    poller.timer_wait_until(at * 1e3)

    def close(self) -> None:
        """Leave the bridges."""
        for name in list(self._ports):
            self._forget(name)

    def log(self) -> list[dict[str, Any]]:
        """The holds that ended, oldest first, as plain values."""
        return [asdict(record) for record in self.history]

    # -- reports of workers ----------------------------------------------------------------------

    def _state(self, name: str, state: PortState, now: float) -> None:
        """A guest that begins to migrate: the bridge still has all its addresses here."""
        migrates = state.has(Feature.LOG_ALL.mask)
        known = self._ports.get(name)
        if migrates and known is None and self._forwards(name):
            if self._allowance(name, now).look(now):
                self._ports[name] = _Port(PortHold(now))
            else:
                self.counters["looks-refused"] += 1
        elif not migrates and known is not None and known.hold.number is None:
            self._forget(name)

    def _holding(self, name: str, holding: HoldState, now: float) -> None:
        port = self._ports.get(name)
        if not holding.active:
            if port is not None and port.hold.number == holding.hold:
                self._ended(name, port, holding, now)
            return
        if port is None or port.hold.number != holding.hold:
            if not self._forwards(name) or not self._allowance(name, now).hold(now):
                self.counters["holds-refused"] += 1
                return
            self.counters["holds"] += 1
            if port is None or port.hold.number is not None:
                self._forget(name)
                port = self._ports[name] = _Port(PortHold(now))
            port.hold.begin(holding.hold)
            port.bridge = BridgeConnection(self._place(name).mgmt_path)
        if port.hold.active:
            port.hold.tracker.hold(holding.stations, now, holding.sighted)

    def _held(self, name: str, held: HeldFrames, now: float) -> None:
        """Forward a batch that was asked for; anything else means nothing."""
        port = self._ports.get(name)
        if port is None or not port.hold.asked_for(held.id):
            self.counters["frames-unasked"] += len(held.frames)
            return
        port.hold.answered(held.id, now, left=held.left)
        frames = held.frames
        over = self._allowance(name, now).batch(len(frames), sum(map(len, frames)), now)
        if over:
            refused = Counter({"over-limit": len(frames)})
            port.hold.refused += refused
        else:
            place, vlans = self._place(name), self._vlans(name)
            refused = port.hold.take(frames, place, vlans, self._rows_at(name))
        for reason, count in refused.items():
            self.counters["frames-unfit"] += count
            self.counters[f"frames-{reason}"] += count
        if over:
            self._over(name, port, over, now)

    def _over(self, name: str, port: _Port, what: str, now: float) -> None:
        """End a hold for the daemon's part, whatever its worker does."""
        self.counters[HOLD_LIMIT] += 1
        self._record(port.hold.record(name, {}, now, what))
        self._forget(name)
        self._ports[name] = _Port(PortHold.over(port.hold.number, now))

    def _ended(self, name: str, port: _Port, holding: HoldState, now: float) -> None:
        if port.hold.active:
            self._record(port.hold.record(name, holding.counts, now))
        self._forget(name)

    def _record(self, record: Record) -> None:
        self.history.append(record)
        self._moves.held(record)
        say = vlog.warn if record.over else vlog.info
        say(f"{record.port}: {record.summary()}")

    # -- the switch ------------------------------------------------------------------------------

    def _ask_tables(self, now: float) -> None:
        """Ask for the tables that are due, each bridge's once at a time."""
        due: set[str] = set()
        asked = self._asked_bridges()
        for name, port in self._ports.items():
            look_at = port.hold.tracker.get_timer()
            bridge = self._bridge(name)
            if look_at is not None and now >= look_at and bridge not in asked:
                port.asked = True
                port.hold.tracker.ask()
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
                    self._table(name, port, text, now)
                case NoAnswer():
                    port.hold.tracker.no_table(now)
                case _:
                    assert_never(reply)

    def _table(self, name: str, port: _Port, text: str, now: float) -> None:
        if not port.hold.table(text, self._place(name), self._rows_at(name), now):
            return
        self._moves.found(name, port.hold.places, now)
        port.sights += 1
        if port.sights <= SIGHTS:
            found = port.hold.tracker.new_ports.items()
            places = ", ".join(f"{station.encode()} on port {n}" for station, n in found)
            vlog.info(f"{name}: forwarding what is held: {places:.200}")

    def _flush(self, name: str, hold: PortHold, bridge: BridgeConnection) -> None:
        """Make the bridge count now: the guest's last frames before it has moved, its first after.

        The last, counted later, would move its address back to this port, in a bridge that has
        learned the new one.
        """
        if not bridge.idle:
            return
        place = self._place(name)
        frame = hold.tracker.flush_frame(_LOCALLY_ADMINISTERED + os.urandom(5), place)
        if frame is not None:
            bridge.packet_out(place.ofport, frame, Output.NORMAL)

    def _deliver(self, name: str, hold: PortHold, bridge: BridgeConnection, now: float) -> None:
        done = bridge.run(now)
        if hold.queue and bridge.idle:
            self._moves.forwarded(name, now)
            bridge.packets_to(hold.queue, now)
            hold.queue = []
            done += bridge.run(now)
        for batch in done:
            if batch.lost:
                self.counters["frames-lost"] += batch.sent
                vlog.warn(f"{batch.sent} held frames may not have been forwarded: {batch.lost}")
            else:
                self.counters["frames-forwarded"] += batch.sent - len(batch.refused)
                self.counters["frames-refused"] += len(batch.refused)

    def _release(self, name: str, port: _Port, now: float) -> None:
        """Ask the worker for the next batch, once the one before has arrived."""
        stations = port.hold.next_release(now, idle=port.idle)
        if not stations:
            return
        self._request += 1
        if self._send(name, Release(self._request, tuple(sorted(stations))), now):
            port.hold.released(self._request, stations)

    # -- rows -------------------------------------------------------------------------------------

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
        """The VLAN settings of the ports of the bridge of port `name`, by OpenFlow number."""
        assert self._snapshot is not None
        here = self._bridge(name)
        return {n: vlan for (bridge, n), vlan in self._snapshot.vlans.items() if bridge == here}

    def _rows_at(self, name: str) -> Rows:
        assert self._owners is not None
        if name not in self._rows:
            self._rows[name] = self._owners.rows_at(self._spec(name))
        return self._rows[name]

    def _asked_bridges(self) -> set[str]:
        return {self._bridge(name) for name, port in self._ports.items() if port.asked}

    def _allowance(self, name: str, now: float) -> Allowance:
        return self._allowances.setdefault(name, Allowance(now))

    def _forget(self, name: str) -> None:
        port = self._ports.pop(name, None)
        if port is not None and port.bridge is not None:
            self.counters["frames-lost"] += len(port.hold.queue)
            port.bridge.close()
