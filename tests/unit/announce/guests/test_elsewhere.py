# SPDX-License-Identifier: Apache-2.0
"""Which of a guest's stations are another port's by now, as the bridge's MAC table has it."""

from ovs_vhost_plugin.announce.guests.elsewhere import Look, moved
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station
from ovs_vhost_plugin.net.vlan import PortVlan, VlanMode

MAC, OTHER = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
HOME = Location("br0", 3, "/run/br0.mgmt", members=(3, 4))


def row(port: int, vlan: int, mac: bytes = MAC) -> str:
    return f"{port:>5}  {vlan:4}  {mac.hex(':')}    0\n"


def found(table: str, *stations: Station, place: Location = HOME) -> dict[Station, str]:
    look = Look("vhu0", "resumed", place, stations)
    return {Station(*key): text for key, text in moved(look, table).items()}


def test_what_sits_on_another_port_has_moved_on() -> None:
    table = row(1, 0) + row(3, 0, OTHER)
    stations = Station(MAC), Station(OTHER)
    assert found(table, *stations) == {Station(MAC): "mac-elsewhere: on port 1"}


def test_every_member_of_its_bond_is_its_own_place() -> None:
    assert found(row(4, 0), Station(MAC)) == {}


def test_another_vlan_is_another_station() -> None:
    assert found(row(1, 5), Station(MAC)) == {}
    assert found(row(1, 5), Station(MAC, 5)) == {Station(MAC, 5): "mac-elsewhere: on port 1"}


def test_the_table_has_the_vlan_that_the_port_gives() -> None:
    access = Location("br0", 3, "/run/br0.mgmt", PortVlan(VlanMode.ACCESS, 5))
    assert found(row(1, 0), Station(MAC), place=access) == {}
    assert found(row(1, 5), Station(MAC), place=access) == {
        Station(MAC): "mac-elsewhere: on port 1"
    }


def test_a_table_that_could_not_be_read_moves_nobody() -> None:
    assert found("", Station(MAC)) == {}
