# SPDX-License-Identifier: Apache-2.0
"""The daemon's one loop: receive, compare, act, publish, sleep.

The loop sleeps in poll until something happens, and nothing in it waits for a peer. While the
database is away or another daemon holds its lock, ports stay exactly as they are.
"""

import math
from collections.abc import Mapping

from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.common.text import escaped
from ovs_vhost_plugin.daemon import status
from ovs_vhost_plugin.daemon.agenda import Agenda
from ovs_vhost_plugin.daemon.connector import Connector
from ovs_vhost_plugin.daemon.events import Event
from ovs_vhost_plugin.daemon.guests.announcing import Announcing
from ovs_vhost_plugin.daemon.guests.forwarding import Forwarding
from ovs_vhost_plugin.daemon.guests.moves import Moves
from ovs_vhost_plugin.daemon.handover.upgrading import Upgrading
from ovs_vhost_plugin.daemon.lasting import Lasting
from ovs_vhost_plugin.daemon.ovsdb import adoption
from ovs_vhost_plugin.daemon.ovsdb.carriage import Trouble
from ovs_vhost_plugin.daemon.ovsdb.database import Database, Standing
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.ovsdb.snapshot import Snapshot
from ovs_vhost_plugin.daemon.poller import LoopPoller
from ovs_vhost_plugin.daemon.ports import Ports
from ovs_vhost_plugin.daemon.reconcile import reconcile
from ovs_vhost_plugin.daemon.taps.reopening import TapReopener
from ovs_vhost_plugin.vswitchd.unixctl import Switchd

vlog = Vlog("vhost_loop")

ACTIONS_AT_ONCE = 4
"""Most actions of a turn. One may take milliseconds, in which no guest can be announced."""

_CLEANUP_TIMEOUT = 8.0
"""Seconds that `exit --cleanup` waits for workers to end and rows to be cleaned."""


class Loop:
    """The daemon's parts, and the order in which they take their turns."""

    def __init__(
        self,
        database: Database,
        ports: Ports,
        connector: Connector,
        announcing: Announcing,
        forwarding: Forwarding,
        moves: Moves,
        reopener: TapReopener,
        switchd: Switchd,
        upgrading: Upgrading,
    ) -> None:
        self.database = database
        self.ports = ports
        self.connector = connector
        self.announcing = announcing
        self.forwarding = forwarding
        self.moves = moves
        self.reopener = reopener
        self.switchd = switchd
        self.upgrading = upgrading
        self.lasting = Lasting()
        self.snapshot: Snapshot | None = None
        self.agenda = Agenda()
        self._telling = adoption.Telling()
        self._serving = False
        self._complained: dict[str, str] = {}
        self._mended: dict[str, str] = {}  # the connector's errors of the turn before
        self._broken = ""
        self._wake_at: float | None = None
        self._cleanup_until: float | None = None
        self._exiting = False

    @property
    def desired(self) -> dict[str, PortSpec]:
        """The ports that the rows ask for; none while cleaning up."""
        if self.snapshot is None or self._cleanup_until is not None:
            return {}
        return self.snapshot.ports

    def keys(self, port: PortSpec) -> dict[str, str] | None:
        """The status keys of a port; None while they are unknown."""
        keys = self.ports.keys(port)
        if keys is None:
            return None
        if uncarried := self.lasting.of(port.name, Trouble.CANNOT_CARRY):
            keys = status.of_uncarried(keys, uncarried)
        not_taken = self.lasting.of(port.name, Trouble.MTU_NOT_TAKEN)
        not_upgraded = self.upgrading.errors.get(port.name)
        for error in (self.connector.errors.get(port.name), not_taken, not_upgraded):
            if error:
                keys.setdefault(status.ERROR, error)
        return keys

    def exit(self, now: float, *, cleanup: bool) -> None:
        """End the loop soon; with `cleanup`, after the workers and taps have gone."""
        if cleanup:
            self._cleanup_until = now + _CLEANUP_TIMEOUT
            self._wake_at = now
            self._touch_all()
        else:
            self._exiting = True

    @property
    def exiting(self) -> bool:
        """Whether the loop can end now."""
        return self._exiting

    def turn(self, now: float) -> list[Event]:
        """Do everything that can be done at once; return the workers' reports.

        Steps that frames wait for come first: reading changes of the database takes milliseconds,
        and our own writes change it when a guest moves.
        """
        self._wake_at = None
        events = self.ports.workers.run(now)
        self._announce(events, now)
        self.database.run(now)
        self._tell_types(now)
        before = self.snapshot
        self._look(now)
        if self.snapshot is not before:
            self._announce([], now)
        self.agenda.touch(self.ports.run(now))
        self.agenda.touch(self.ports.workers.take_touched())
        self.agenda.touch(event.name for event in events)
        self.ports.take(events, self.desired, now)
        self.upgrading.take(events, now)
        self.connector.take(events, now)
        self.connector.run(self.desired, now)
        self._hear_errors()
        self.ports.seclusion.run()
        if self._serving and self.snapshot is not None:
            self._act(self.snapshot, now)
            self.upgrading.run(self.desired, now)
            self._publish(self.snapshot, now)
        self._check_cleanup(now)
        return events

    def close(self) -> None:
        """Leave the database, the switch and the workers, which go on."""
        self.announcing.close()
        self.forwarding.close()
        self.switchd.close()
        self.connector.close()
        self.ports.close()
        self.database.close()

    def wait(self, poller: LoopPoller, now: float) -> None:
        """Register every fd and time that needs another turn."""
        self.database.wait(poller)
        self.ports.wait(poller)
        self.ports.seclusion.wait(poller)
        self.announcing.wait(poller)
        self.forwarding.wait(poller)
        self.switchd.wait(poller)
        self.connector.wait(poller)
        timers = (
            self._wake_at,
            self._cleanup_until,
            self.database.get_timer(),
            self.ports.workers.get_timer(),
            self.connector.get_timer(),
            *self._timers_of_acting(now),
        )
        for at in timers:
            if at is not None:
                poller.timer_wait(math.ceil((at - now) * 1000))

    def _timers_of_acting(self, now: float) -> tuple[float | None, ...]:
        """When there is more to do; never, while this daemon may do nothing."""
        if not self._serving or self.database.standing is not Standing.ACTIVE:
            return ()
        slots = self.ports.workers.spawn_slots > 0
        agenda = self.agenda.get_timer(now, slots=slots)
        upgrading = self.upgrading.get_timer()
        return self.reopener.get_timer(), self.lasting.get_timer(), upgrading, agenda

    def _look(self, now: float) -> None:
        """Read the rows, and check that this daemon holds the lock."""
        standing = self.database.standing
        if standing is Standing.CONTENDED and self._serving:
            self._serving = False
            self.ports.let_go(now)
            self.connector.let_go()
        if standing is not Standing.ACTIVE:
            return
        snapshot = self.database.snapshot()
        if snapshot is not self.snapshot:
            self._changed(snapshot)
        if not self._serving:
            self._serving = True
            self.ports.adopt(now)
            self._touch_all()

    def _changed(self, snapshot: Snapshot | None) -> None:
        """Take the rows as they are now."""
        before, self.snapshot = self.snapshot, snapshot
        if snapshot is None:
            self._touch_all()
            return
        names = snapshot.changed_since(before)
        self.ports.look_again(names)
        self.agenda.touch(names)
        for name in names:
            self._complain(name, snapshot.complaint(name))

    def _touch_all(self) -> None:
        rows = () if self.snapshot is None else self.snapshot.keys
        self.ports.look_again(list(self.ports.names))
        self.agenda.touch((*rows, *self.ports.names))

    def _complain(self, name: str, error: str) -> None:
        """Log and count each invalid row once."""
        if not error:
            self._complained.pop(name, None)
        elif self._complained.get(name) != error:
            self._complained[name] = error
            vlog.warn(f"{escaped(name)}: {error}")
            self.ports.faults.counters[error.partition(":")[0]] += 1

    def _hear_errors(self) -> None:
        """Note the ports of which others than their workers have something to say."""
        if self.connector.errors != self._mended:
            both = self.connector.errors.items() ^ self._mended.items()
            self.agenda.touch(name for name, _ in both)
            self._mended = dict(self.connector.errors)
        self.agenda.touch(self.announcing.take_news())
        if self.ports.workers.broken != self._broken:
            self._broken = self.ports.workers.broken
            self._touch_all()

    def _announce(self, events: list[Event], now: float) -> None:
        if self.snapshot is not None:
            self.switchd.follow(self.snapshot.switch.rundir, now)
            self.announcing.locate(self.snapshot)
            self.forwarding.locate(self.snapshot)
        self.moves.take(events, now)
        self.announcing.take(events, now)
        self.announcing.run()
        self.forwarding.take(events, now)
        self.forwarding.run(now)
        self._ask_switch(now)

    def _ask_switch(self, now: float) -> None:
        """Send the questions to the switch, and use each answer at once."""
        while self.switchd.run(now):
            self.announcing.run()
            self.forwarding.run(now)

    def _act(self, snapshot: Snapshot, now: float) -> None:
        """Take one step of some ports that something happened to; others follow in later turns."""
        changed = self.agenda.take_touched()
        if self.database.standing is Standing.ACTIVE:
            names = self.agenda.take(self.ports.workers.spawn_slots, now)
            changed |= set(names)
            self._step(names, snapshot, now)
        self.reopener.run(changed, snapshot, now)
        self._ask_switch(now)
        lasting = self.lasting.look(changed, self.desired, snapshot.keys, now)
        for begun in lasting.values():
            self.ports.faults.counters.update(begun)
        self.agenda.publish({*changed, *lasting})

    def _step(self, names: list[str], snapshot: Snapshot, now: float) -> None:
        desired, slots = self.desired, self.ports.workers.spawn_slots
        wanted = {name: desired[name] for name in names if name in desired}
        wrong = snapshot.errors.keys() if self._cleanup_until is None else ()
        plan = reconcile(wanted, wrong, self.ports.observe(names, snapshot.keys, now), slots, now)
        for action in plan.actions[:ACTIONS_AT_ONCE]:
            self.ports.execute(action, now)
        self.agenda.planned(names, plan)

    def _wake_by(self, at: float | None) -> None:
        if at is not None:
            self._wake_at = at if self._wake_at is None else min(self._wake_at, at)

    def _tell_types(self, now: float) -> None:
        """Add OVS-DPDK's types to the switch's, or remove them, before all rows are read.

        At once, as others wait for the types.
        """
        if not self.database.writable(now) or self.database.standing is not Standing.ACTIVE:
            return
        wanted = self.database.tells_types and self._cleanup_until is None
        types = self._telling.step(self.database.iface_types, wanted, now)
        if isinstance(types, float):
            self._wake_by(types)
        elif types:
            self.database.write({}, frozenset(), types)

    def _publish(self, snapshot: Snapshot, now: float) -> None:
        if not self.database.writable(now) or self.database.standing is not Standing.ACTIVE:
            return
        changes: dict[str, Mapping[str, str | None]] = {}
        adopted = snapshot.adopted if self._cleanup_until is None else {}
        for name in self.agenda.take_unpublished():
            if (current := snapshot.keys.get(name)) is None:
                continue
            wanted = self._keys(name, current, snapshot)
            todo = {} if wanted is None else status.changes(current, wanted)
            if todo or name in adopted:
                changes[name] = {**todo, **adopted.get(name, {})}
        if changes:
            # Whatever becomes of it, the rows are compared once more.
            self.agenda.publish(changes)
            self.database.write(changes, frozenset(changes.keys() & adopted.keys()))

    def _keys(
        self, name: str, current: Mapping[str, str], snapshot: Snapshot
    ) -> dict[str, str] | None:
        """The status keys that an Interface row should have; None: leave its keys."""
        if self._cleanup_until is not None:
            return {}
        if name in snapshot.errors:
            return self.ports.keys_of_wrong(name, str(snapshot.errors[name]))
        if name not in snapshot.ports:
            return {}
        port = snapshot.ports[name]
        keys = self.keys(port)
        if keys is not None and port.warning:
            keys.setdefault(status.ERROR, port.warning)
        # A restarted daemon knows nothing better than the previous daemon's value.
        announced = self.announcing.announced.get(name, current.get(status.ANNOUNCED))
        if keys is not None and announced:
            keys[status.ANNOUNCED] = announced
        return keys

    def _check_cleanup(self, now: float) -> None:
        if self._cleanup_until is None:
            return
        done = not len(self.ports) and self.database.writable(now) and not self._has_our_keys()
        if done or now >= self._cleanup_until:
            self._exiting = True

    def _has_our_keys(self) -> bool:
        """Whether a row still has a key of ours."""
        snapshot = self.database.snapshot()
        return snapshot is not None and (
            any(status.changes(keys, {}) for keys in snapshot.keys.values())
            or bool(adoption.told(self.database.iface_types, wanted=False))
        )
