# SPDX-License-Identifier: Apache-2.0
"""What is known of a guest is that guest's: not of another one that its port serves later."""

import contextlib
from dataclasses import replace
from pathlib import Path

from support.daemon.ports import PORT

from ovs_vhost_plugin.daemon.events import Heard
from ovs_vhost_plugin.daemon.guests.announcing import Announcing
from ovs_vhost_plugin.daemon.guests.moves import Moves
from ovs_vhost_plugin.daemon.ovsdb.snapshot import Snapshot
from ovs_vhost_plugin.daemon.ovsdb.switch_row import Switch
from ovs_vhost_plugin.ipc.reports import GuestStations, Rarp
from ovs_vhost_plugin.ipc.spec import PortSettings
from ovs_vhost_plugin.net.station import Station
from ovs_vhost_plugin.vswitchd.unixctl import Switchd

NOW = 100.0
MAC = bytes.fromhex("525400000001")
LEARNED = Station(bytes.fromhex("525400000002"))


def test_a_port_with_another_socket_is_another_guests(tmp_path: Path) -> None:
    switch = Switch(str(tmp_path), "", False, frozenset())
    announcing = Announcing(lambda *_: True, Switchd(), Moves(), clock=lambda: NOW)
    with contextlib.closing(announcing):
        announcing.locate(Snapshot(switch, {"vhu0": PORT}))
        announcing.take(
            [Heard("vhu0", Rarp(MAC, NOW)), Heard("vhu0", GuestStations((LEARNED,)))], NOW
        )
        assert announcing.known("vhu0")

        announcing.locate(
            Snapshot(switch, {"vhu0": replace(PORT, settings=PortSettings(mtu=9000))})
        )
        assert announcing.known("vhu0")
        other = replace(PORT, path="/run/another-vm.sock")
        announcing.locate(Snapshot(switch, {"vhu0": other}))
        assert not announcing.known("vhu0")
