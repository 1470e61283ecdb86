# SPDX-License-Identifier: Apache-2.0
"""When a guest is asked for its multicast groups: where its bridge snoops, and it is announced."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from support.daemon.ports import PORT

from ovs_vhost_plugin.announce.frames.queries import queries
from ovs_vhost_plugin.announce.guests.guests import MAX_QUERIED
from ovs_vhost_plugin.announce.policy import Policy
from ovs_vhost_plugin.announce.service import AnnounceService
from ovs_vhost_plugin.daemon.events import Heard
from ovs_vhost_plugin.daemon.guests.announcing import Announcing
from ovs_vhost_plugin.daemon.guests.moves import Moves
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.ovsdb.snapshot import Snapshot
from ovs_vhost_plugin.daemon.ovsdb.switch_row import Switch
from ovs_vhost_plugin.ipc.reports import GuestStations, PortState, Rarp, Report, Started
from ovs_vhost_plugin.net.station import Station
from ovs_vhost_plugin.net.vlan import PortVlan, VlanMode
from ovs_vhost_plugin.vswitchd.unixctl import Switchd

BRIDGE_MAC = bytes.fromhex("02000000000a")
MAC = bytes.fromhex("525400000001")
SNOOPS = replace(PORT, ofport=3, snoops=True, announce=Policy(rounds=1))
RUNNING = PortState("running", "", "0", "0", 2, (), None, "", "", 0)
MOVED_IN = (Started(base=7), RUNNING)


class Port:
    """One port and its guest on a clock that is a number."""

    def __init__(self, rundir: Path, asked: list[tuple[bytes, ...]]) -> None:
        self.now = 100.0
        self.asked = asked
        self.announcing = Announcing(lambda *_: True, Switchd(), Moves(), clock=lambda: self.now)
        self._switch = Switch(str(rundir), "", False, frozenset())

    def is_at(self, port: PortSpec, own: str = BRIDGE_MAC.hex(":")) -> None:
        self.announcing.locate(
            Snapshot(self._switch, {"vhu0": port}, own_macs={"br0": {own} if own else set()})
        )

    def tells(self, *reports: Report) -> None:
        self.announcing.take([Heard("vhu0", report) for report in reports], self.now)

    def vlans(self) -> list[int]:
        """In which VLANs the guest has been asked since, in this order."""
        frames = {queries(BRIDGE_MAC, vlan): vlan for vlan in range(100)}
        vlans = [frames[one] for one in self.asked]
        self.asked.clear()
        return vlans


@pytest.fixture
def port(tmp_path, monkeypatch) -> Iterator[Port]:
    asked: list[tuple[bytes, ...]] = []
    monkeypatch.setattr(AnnounceService, "query", lambda _, name, frames: asked.append(frames))
    made = Port(tmp_path, asked)
    with closing(made.announcing):
        yield made


def test_a_guest_that_moves_in_is_asked_with_each_round(port) -> None:
    port.is_at(replace(SNOOPS, announce=Policy(rounds=3), attached_mac=MAC.hex(":")))
    port.tells(*MOVED_IN)
    asked = [port.vlans()]
    for _ in range(4):
        port.now += 1.0
        port.announcing.run()
        asked.append(port.vlans())
    assert asked == [[0], [0], [0], [], []]


@pytest.mark.parametrize(("trunks", "vlans"), [((), [0]), ((20, 30), [20, 30])])
def test_a_guest_of_whom_nothing_is_known_is_asked_too(port, trunks, vlans) -> None:
    port.is_at(replace(SNOOPS, vlan=PortVlan(trunks=frozenset(trunks))))
    port.tells(*MOVED_IN)
    assert port.vlans() == vlans


@pytest.mark.parametrize(
    "changed",
    [
        {"ofport": 4},
        {"vlan": PortVlan(VlanMode.ACCESS, 10)},
        {"hindered": ""},
    ],
)
def test_a_guest_whose_port_was_moved_or_forwards_is_asked(port, changed) -> None:
    before = replace(SNOOPS, hindered="RSTP: Discarding")
    port.is_at(before)
    port.tells(*MOVED_IN)
    port.vlans()
    port.is_at(replace(before, **changed))
    assert port.vlans() == [0]


def test_each_send_rarp_of_a_guest_that_runs_asks_it(port) -> None:
    """They end the daemon's own rounds."""
    port.is_at(SNOOPS)
    port.tells(Rarp(MAC, port.now))
    assert port.vlans() == [], "nobody runs who could answer"
    port.tells(*MOVED_IN)
    assert port.vlans() == [0]
    port.tells(Rarp(MAC, port.now), Rarp(MAC, port.now))
    assert port.vlans() == [0, 0]


def test_send_rarp_ends_the_daemons_own_rounds(port) -> None:
    port.is_at(replace(SNOOPS, announce=Policy(rounds=3), attached_mac=MAC.hex(":")))
    port.tells(*MOVED_IN)
    assert port.vlans() == [0]
    port.tells(Rarp(MAC, port.now))
    assert port.vlans() == [0]
    port.now += 1.0
    port.announcing.run()
    assert port.vlans() == []


@pytest.mark.parametrize(
    ("columns", "vlans"),
    [
        ({"vlan": PortVlan(trunks=frozenset({15, 20, 30}))}, [20, 30, 15]),
        ({}, [0, 20, 30]),
        ({"vlan": PortVlan(VlanMode.ACCESS, 20)}, [0]),
        ({"vlan": PortVlan(VlanMode.NATIVE_UNTAGGED, 10, frozenset({20}))}, [0, 20]),
        ({"addresses": tuple(Station(MAC, n) for n in range(1, 21))}, [*range(MAX_QUERIED)]),
    ],
    ids=["trunk", "no VLANs", "access", "native-untagged", "too many"],
)
def test_it_is_asked_in_each_vlan_that_it_uses_and_its_port_carries(port, columns, vlans) -> None:
    """20 is what its frames have shown, 30 what the row says."""
    port.is_at(replace(SNOOPS, **{"addresses": (Station(MAC, 30),), **columns}))
    port.tells(GuestStations((Station(MAC, 20),)), *MOVED_IN)
    assert port.vlans() == vlans


@pytest.mark.parametrize(
    ("row", "own"),
    [
        (replace(SNOOPS, snoops=False), BRIDGE_MAC.hex(":")),
        (SNOOPS, ""),
        (replace(SNOOPS, announce=Policy(enabled=False)), BRIDGE_MAC.hex(":")),
    ],
    ids=["no snooping", "a bridge without a MAC", "announce=off"],
)
def test_nobody_is_asked(port, row, own) -> None:
    port.is_at(row, own)
    port.tells(*MOVED_IN, Rarp(MAC, port.now))
    port.now += 1.0
    port.announcing.run()
    assert port.vlans() == []
