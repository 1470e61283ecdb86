# SPDX-License-Identifier: Apache-2.0
"""Rows of the database → snapshots. Pure.

A change of a port's own rows is read alone, so that it costs the same among a thousand ports. After
any other change all rows are read.
"""

import posixpath
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ovs_vhost_plugin.daemon.ovsdb import adoption, port_rows, tunnels
from ovs_vhost_plugin.daemon.ovsdb import interface_rows as rows
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.ovsdb.row_values import RowError, RowErrorName
from ovs_vhost_plugin.daemon.ovsdb.snapshot import Snapshot
from ovs_vhost_plugin.daemon.ovsdb.switch_row import Switch, parse_switch
from ovs_vhost_plugin.net.vlan import PortVlan

_NO_OFPORT = 1 << 16  # above every number that OpenFlow 1.0 has

Number = tuple[str, int]
"""A bridge and an OpenFlow port of it."""


@dataclass(frozen=True, slots=True)
class _Interface:
    """The content of one Interface row at its place."""

    row: Any
    name: str
    numbers: tuple[Number, ...]
    keys: Mapping[str, str]
    vlan: PortVlan
    macs: frozenset[str]  # of an internal port
    adopted: Mapping[str, str | None] | None
    spec: PortSpec | None
    error: RowError | None
    is_wire: bool  # it counts for which bridges lead into tunnels

    @property
    def path(self) -> str:
        return "" if self.spec is None else posixpath.normpath(self.spec.path)


@dataclass(frozen=True, slots=True)
class _Port:
    row: Any
    bridge: Any
    interfaces: tuple[_Interface, ...]


class _Columns:
    """A row whose columns are converted once: the Idl does it anew with each look at one."""

    def __init__(self, row: Any, **known: Any) -> None:
        self._row = row
        self.__dict__.update(known)

    def __getattr__(self, column: str) -> Any:
        value = getattr(self._row, column)
        setattr(self, column, value)
        return value


class _WholeNeeded(Exception):  # noqa: N818 - no error
    """A change that may concern any port."""


class Reader:
    """The rows as they were read last. Rows are told apart by identity, as the Idl keeps them."""

    def __init__(self, rundir: str, formats: Collection[str] = (), *, adopts: bool = False) -> None:
        """`formats` and `adopts`: see `Database`."""
        self.adopts = adopts
        self._rundir, self._formats = rundir, formats
        self._serial = 0
        self._clear()

    def _clear(self) -> None:
        self._bridges: dict[int, tuple[Any, tuple[Any, ...]]] = {}  # with their settings
        self._ports_of: dict[int, set[int]] = {}
        self._ports: dict[int, _Port] = {}
        self._port_of: dict[int, int] = {}
        self._interfaces: dict[str, _Interface] = {}
        self._at_path: dict[str, set[str]] = defaultdict(set)
        self._numbered: dict[Number, set[str]] = defaultdict(set)
        self._macs: dict[str, tuple[str, frozenset[str]]] = {}  # of internal ports, with the bridge
        self._touched: set[str] = set()
        self._renumbered: set[Number] = set()

    def read(self, switch_row: Any) -> Snapshot:
        """Read all rows, from the Open_vSwitch row down."""
        self._clear()
        switch = parse_switch(switch_row, self._rundir)
        for bridge in switch_row.bridges:
            self._bridges[id(bridge)] = bridge, _settings(bridge)
            ports, place = list(bridge.ports), _Columns(bridge)
            self._ports_of[id(bridge)] = {id(port) for port in ports}
            for port in ports:
                self._put(port, bridge, place, switch)
        return self._snapshot(Snapshot(switch), whole=True)

    def follow(self, before: Snapshot, changed: Collection[Any], switch_row: Any) -> Snapshot:
        """Read the rows that were changed, made or removed since `before`, or all."""
        try:
            switch = before.switch
            if any(row is switch_row for row in changed):
                switch = self._switch(before, switch_row)
            todo = self._todo(changed)
            for port in todo:
                self._drop(port)
            places = {id(bridge): _Columns(bridge) for _, bridge in todo.values()}
            for port, (row, bridge) in todo.items():
                if port in self._ports_of[id(bridge)]:
                    self._put(row, bridge, places[id(bridge)], switch)
                    if any(one.is_wire for one in self._ports[port].interfaces):
                        raise _WholeNeeded
            return self._snapshot(replace(before, switch=switch), whole=False)
        except _WholeNeeded:
            return self.read(switch_row)

    def row_of(self, name: str) -> Any:
        """The Interface row of this name; None: there was none when rows were read last."""
        return self._interfaces[name].row if name in self._interfaces else None

    def _switch(self, before: Snapshot, row: Any) -> Switch:
        """The Open_vSwitch row, which may have other types of interfaces than before."""
        switch = parse_switch(row, self._rundir, before.switch.into_tunnels)
        if {id(bridge) for bridge in row.bridges} != self._bridges.keys():
            raise _WholeNeeded
        types = before.switch.iface_types
        if switch != replace(before.switch, iface_types=switch.iface_types) or (
            self.adopts and adoption.lacks_dpdk(types) != adoption.lacks_dpdk(switch.iface_types)
        ):
            raise _WholeNeeded
        return switch

    def _todo(self, changed: Iterable[Any]) -> dict[int, tuple[Any, Any]]:
        """The ports to read or to forget, by identity, with their rows and bridges."""
        todo: dict[int, tuple[Any, Any]] = {}
        for row in changed:
            mark = id(row)
            if mark in self._bridges:
                if self._bridges[mark][1] != _settings(row):
                    raise _WholeNeeded
                ports = {id(port): port for port in row.ports}
                for gone in self._ports_of[mark] - ports.keys():
                    todo.setdefault(gone, (self._ports[gone].row, row))
                for new in ports.keys() - self._ports_of[mark]:
                    todo[new] = ports[new], row
                self._ports_of[mark] = set(ports)
            elif mark in self._port_of or mark in self._ports:
                port = self._ports[self._port_of.get(mark, mark)]
                todo.setdefault(id(port.row), (port.row, port.bridge))
        return todo

    # -- one port ---------------------------------------------------------------------------------

    def _drop(self, mark: int) -> None:
        port = self._ports.pop(mark, None)
        for one in () if port is None else port.interfaces:
            self._touch(one)
            if one.is_wire:
                raise _WholeNeeded
            self._port_of.pop(id(one.row), None)
            self._interfaces.pop(one.name, None)
            self._macs.pop(one.name, None)
            _take_out(self._at_path, one.path, one.name)
            for number in one.numbers:
                _take_out(self._numbered, number, one.name)

    def _put(self, port: Any, bridge: Any, place: _Columns, switch: Switch) -> None:
        """Read a port; `place`: the columns of its bridge."""
        both = [(row, _Columns(row)) for row in port.interfaces]
        columns = _Columns(port, interfaces=[one for _, one in both])
        interfaces = tuple(self._read(*one, columns, place, switch) for one in both)
        self._ports[id(port)] = _Port(port, bridge, interfaces)
        for one in interfaces:
            self._port_of[id(one.row)] = id(port)
            self._interfaces[one.name] = one
            if one.macs:
                self._macs[one.name] = place.name, one.macs
            if one.path:
                self._at_path[one.path].add(one.name)
            for number in one.numbers:
                self._numbered[number].add(one.name)
            self._touch(one)

    def _touch(self, one: _Interface) -> None:
        """Note an interface, and those whose socket or number it has."""
        self._touched.add(one.name)
        self._renumbered.update(one.numbers)
        self._touched |= self._at_path.get(one.path, set())
        for number in one.numbers:
            self._touched |= self._numbered.get(number, set())

    def _read(self, row: Any, interface: Any, port: Any, bridge: Any, switch: Switch) -> _Interface:
        """Read the columns of a row at its place."""
        name, kind, keys = interface.name, interface.type, interface.external_ids
        macs = frozenset(interface.mac_in_use) if kind == "internal" else frozenset()
        adopted, spec, wrong = None, None, None
        if self.adopts and adoption.is_adoptable(interface, switch.iface_types):
            adopted = adoption.keys(interface)
            interface = adoption.TakenOver(interface)
        if rows.is_ours(interface):
            try:
                spec = rows.parse(interface, port, bridge, switch, self._formats)
            except RowError as error:
                wrong = error
        # All ports that ovs-vswitchd could not open have the number -1.
        numbers = tuple((bridge.name, number) for number in interface.ofport if number > 0)
        vlan = port_rows.parse_vlan(port)
        wire = tunnels.is_wire(kind)
        return _Interface(row, name, numbers, keys, vlan, macs, adopted, spec, wrong, wire)

    # -- the snapshot -----------------------------------------------------------------------------

    def _snapshot(self, before: Snapshot, *, whole: bool) -> Snapshot:
        ports, errors, keys = dict(before.ports), dict(before.errors), dict(before.keys)
        adopted, vlans = dict(before.adopted), dict(before.vlans)
        touched, self._touched = self._touched, set()
        renumbered, self._renumbered = self._renumbered, set()
        for name in touched:
            one = self._interfaces.get(name)
            spec, error = (None, None) if one is None else self._judged(one)
            _set(ports, name, spec)
            _set(errors, name, error)
            _set(keys, name, None if one is None else one.keys)
            _set(adopted, name, None if one is None else one.adopted)
        for number in renumbered:
            last = max(self._numbered.get(number, ()), default=None)
            _set(vlans, number, None if last is None else self._interfaces[last].vlan)
        own_macs: dict[str, set[str]] = {}
        for bridge, macs in self._macs.values():
            own_macs.setdefault(bridge, set()).update(macs)
        self._serial += 1
        changed = None if whole or own_macs != before.own_macs else touched
        marks = self._serial, changed
        return Snapshot(before.switch, ports, errors, keys, adopted, own_macs, vlans, *marks)

    def _judged(self, one: _Interface) -> tuple[PortSpec | None, RowError | None]:
        """The port that an interface makes beside the others, or why it makes none."""
        spec = one.spec
        if spec is None:
            return None, one.error
        user = min((self._interfaces[name] for name in self._at_path[one.path]), key=_precedence)
        if user is not one:
            return None, RowError(
                RowErrorName.PATH_IN_USE,
                f"{user.name} has the same socket; set options:{rows.PATH_OPTION} to another one",
            )
        if spec.ofport is not None and len(self._numbered[spec.bridge, spec.ofport]) > 1:
            # The port was moved to a bridge where another port has its number: ovs-vswitchd gives
            # it a new one in a moment, and until then the old one is the other port's.
            return replace(spec, ofport=None), None
        return spec, None


def _precedence(one: _Interface) -> tuple[bool, int, str]:
    """The least one of the ports at a socket has it.

    That is the port that listens there itself, else the one with an OpenFlow port already: a port
    in error gets none, so the answer stays the same while both exist.
    """
    assert one.spec is not None
    return one.spec.mode != "server", one.spec.ofport or _NO_OFPORT, one.name


def _settings(bridge: Any) -> tuple[Any, ...]:
    """The columns of a Bridge row, but for its ports, that count for all its ports."""
    kind = bridge.datapath_type, bridge.datapath_version
    return bridge.name, *kind, tuple(bridge.fail_mode), bridge.mcast_snooping_enable


def _take_out(of_sets: dict[Any, set[str]], key: Any, name: str) -> None:
    """Take a name out of the set of a key, and an empty set out of all."""
    names = of_sets.get(key, set())
    names.discard(name)
    if not names:
        of_sets.pop(key, None)


def _set(into: dict[Any, Any], key: Any, value: Any) -> None:
    """Set a key to a value, or (None) remove it."""
    if value is None:
        into.pop(key, None)
    else:
        into[key] = value
