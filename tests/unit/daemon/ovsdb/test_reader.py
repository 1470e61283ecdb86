# SPDX-License-Identifier: Apache-2.0
"""A change of rows read alone says the same as all rows read anew, and costs one port."""

import random
from dataclasses import fields
from typing import Any

import pytest
from support.daemon.idl import BRIDGE, Row, interface, tables
from support.daemon.rows import PORT

from ovs_vhost_plugin.daemon.ovsdb import interface_rows
from ovs_vhost_plugin.daemon.ovsdb.reader import Reader
from ovs_vhost_plugin.daemon.ovsdb.snapshot import Snapshot

PATHS = ("/a", "/b", "/c/", "/c", "relative", "")
KEYS: tuple[dict[str, str], ...] = (
    {},
    {"vhost-user-mode": "server"},
    {"attached-mac": "52:54:00:00:00:01"},
    {"vhost-user-queues": "none"},
)


class Switch:
    """A database with two bridges, as an Idl has it; `changed` are the rows touched last."""

    def __init__(self, ports: int, seed: int = 0) -> None:
        self.random = random.Random(seed)
        (self.row,) = tables()["Open_vSwitch"].rows.values()
        self.bridges = [Row(name=f"br{n}", ports=[], **BRIDGE) for n in range(2)]
        self.row.bridges = list(self.bridges)
        self.made = 0
        self.changed: list[Any] = []
        for _ in range(ports):
            self.add_port()

    def add_port(self) -> None:
        self.made += 1
        path = {"vhost-server-path": f"/run/{self.made}"}
        row = interface(f"v{self.made}", options=path, ofport=[self.made])
        bridge = self.random.choice(self.bridges)
        port = Row(interfaces=[row], **PORT)
        bridge.ports = [*bridge.ports, port]
        self.changed += [port, row, bridge]

    def delete_port(self) -> None:
        bridge = self.random.choice(self.bridges)
        if bridge.ports:
            port = self.random.choice(bridge.ports)
            bridge.ports = [one for one in bridge.ports if one is not port]
            self.changed += [bridge, *port.interfaces, port]

    def move_port(self) -> None:
        here, there = self.random.sample(self.bridges, 2)
        if here.ports:
            port = self.random.choice(here.ports)
            here.ports = [one for one in here.ports if one is not port]
            there.ports = [*there.ports, port]
            self.changed += self.random.sample([here, there], 2)

    def change_port(self) -> None:
        if (port := self.any_port()) is not None:
            port.tag = self.random.choice([[], [3]])
            self.changed.append(port)

    def bond(self) -> None:
        if (port := self.any_port()) is not None:
            self.made += 1
            row = interface(f"v{self.made}", ofport=[self.made])
            port.interfaces = [*port.interfaces[-1:], row]
            self.changed += [port, row]

    def change_interface(self) -> None:
        if (port := self.any_port()) is not None:
            row = self.random.choice(port.interfaces)
            row.options = {"vhost-server-path": self.random.choice(PATHS)}
            row.external_ids = self.random.choice(KEYS)
            row.ofport = self.random.choice([[], [-1], [1], [2], [self.made]])
            row.type = self.random.choice(["", "", "internal", "patch", "vxlan", "dpdkvhostuser"])
            row.mac_in_use = self.random.choice([[], ["52:54:00:00:00:09"]])
            self.changed.append(row)

    def change_bridge(self) -> None:
        bridge = self.random.choice(self.bridges)
        bridge.datapath_type = self.random.choice(["netdev", "system"])
        self.changed.append(bridge)

    def change_switch(self) -> None:
        self.row.iface_types = self.random.choice([["system"], ["system", "dpdk"], ["internal"]])
        self.row.other_config = self.random.choice([{}, {"userspace-tso-enable": "true"}])
        self.row.ovs_version = self.random.choice([["3.1.0"], ["3.5.0"]])
        self.changed.append(self.row)

    def drop_bridge(self) -> None:
        self.row.bridges = self.random.choice([self.bridges, self.bridges[:1]])
        self.changed.append(self.row)

    def any_port(self) -> Any:
        ports = [port for bridge in self.bridges for port in bridge.ports]
        return self.random.choice(ports) if ports else None

    def step(self) -> list[Any]:
        """Change something, several things sometimes; return the rows."""
        usual = [self.add_port, self.delete_port, self.move_port, self.change_interface] * 3
        seldom = [self.change_port, self.bond, self.change_bridge, self.change_switch]
        for change in self.random.choices([*usual, *seldom, self.drop_bridge], k=2):
            change()
        changed, self.changed = self.changed, []
        return changed


def said(snapshot: Snapshot) -> dict[str, Any]:
    found = {one.name: getattr(snapshot, one.name) for one in fields(snapshot)}
    found["errors"] = {name: str(error) for name, error in snapshot.errors.items()}
    return {name: value for name, value in found.items() if name not in ("serial", "changed")}


@pytest.mark.parametrize("adopts", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_rows_read_alone_say_the_same_as_all_rows(seed: int, adopts: bool) -> None:
    switch = Switch(6, seed)
    reader = Reader("/run/ovs", adopts=adopts)
    snapshot = reader.read(switch.row)
    for _ in range(60):
        before, snapshot = snapshot, reader.follow(snapshot, switch.step(), switch.row)
        whole = Reader("/run/ovs", adopts=adopts).read(switch.row)
        assert said(snapshot) == said(whole)
        changed = snapshot.changed_since(before)
        for part in ("ports", "errors", "keys", "adopted"):
            was, now = getattr(before, part), getattr(snapshot, part)
            names = was.keys() | now.keys()
            differ = {name for name in names if str(was.get(name)) != str(now.get(name))}
            assert differ <= changed


@pytest.mark.parametrize("ports", [4, 400])
def test_a_change_of_a_port_is_one_port_read(ports: int, monkeypatch: pytest.MonkeyPatch) -> None:
    switch = Switch(ports)
    reader = Reader("/run/ovs")
    snapshot = reader.read(switch.row)
    switch.changed.clear()
    parsed: list[str] = []
    parse = interface_rows.parse

    def counted(row: Any, *others: Any) -> Any:
        parsed.append(row.name)
        return parse(row, *others)

    monkeypatch.setattr(interface_rows, "parse", counted)
    row = switch.bridges[0].ports[0].interfaces[0]
    row.external_ids = {"vhost-user-status": "running"}
    snapshot = reader.follow(snapshot, [row], switch.row)
    assert parsed == [row.name] and snapshot.changed == {row.name}
    switch.add_port()
    snapshot = reader.follow(snapshot, switch.changed, switch.row)
    assert parsed == [row.name, f"v{switch.made}"]
    assert snapshot.changed == {f"v{switch.made}"}


def test_who_has_missed_a_snapshot_looks_at_all() -> None:
    switch = Switch(3)
    reader = Reader("/run/ovs")
    first = reader.read(switch.row)
    row = switch.bridges[0].ports[0].interfaces[0]
    second = reader.follow(first, [row], switch.row)
    third = reader.follow(second, [], switch.row)
    assert third.changed_since(second) == set() and second.changed_since(first) == {row.name}
    assert third.changed_since(first) == {"v1", "v2", "v3"} == third.changed_since(None)


def test_ports_that_the_switch_cannot_open_have_nothing_to_do_with_each_other() -> None:
    switch = Switch(9)
    for port in (port for bridge in switch.bridges for port in bridge.ports):
        port.interfaces[0].ofport = [-1]
    reader = Reader("/run/ovs")
    before = reader.read(switch.row)
    row = switch.bridges[0].ports[0].interfaces[0]
    row.ofport = [5]
    assert reader.follow(before, [row], switch.row).changed == {row.name}


def test_nothing_is_kept_of_ports_that_have_gone() -> None:
    switch = Switch(2)
    reader = Reader("/run/ovs")
    snapshot = reader.read(switch.row)

    def kept() -> int:
        return sum(len(one) for one in vars(reader).values() if isinstance(one, dict | set))

    before = kept()
    for _ in range(50):
        switch.changed.clear()
        switch.add_port()
        snapshot = reader.follow(snapshot, switch.changed, switch.row)
        bridge = next(one for one in switch.bridges if one.ports[-1:] == switch.changed[:1])
        port = bridge.ports[-1]
        bridge.ports = bridge.ports[:-1]
        snapshot = reader.follow(snapshot, [port, *port.interfaces, bridge], switch.row)
    assert kept() == before
