# SPDX-License-Identifier: Apache-2.0
"""A MAC that has moved on to another port is not announced for the guest that had it.

The port's worker is a puppet: the test tells as its front-end what it is to report.
"""

from collections.abc import Callable
from typing import Any

import pytest
from support.control.puppet import (
    GUEST_ANNOUNCE,
    LOG_ALL,
    MAC,
    PORT,
    FrontEnd,
    Peer,
    announcements,
    wait_log,
)

from ovs_vhost_plugin.announce.frames.announcements import rarp
from ovs_vhost_plugin.ipc.commands import ForgetStations
from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.net.station import StationKey

pytestmark = pytest.mark.integration

ONCE = "external_ids:vhost-user-announce=rounds=1"
NIC = bytes.fromhex("525400123400")
ATTACHED = f"external_ids:vhost-user-addresses={NIC.hex(':')}"


def place(host: Any, mac: bytes = MAC) -> tuple[str, int] | None:
    return host.switch.fdb(BRIDGE).get(mac.hex(":"))


def pause(host: Any, front_end: FrontEnd) -> None:
    front_end.status("connected")
    front_end.move_in()


def lose(host: Any, front_end: FrontEnd) -> None:
    front_end.status("listening")
    front_end.learned(MAC)  # a worker that learned it before its front-end was lost
    front_end.move_in()


def move(host: Any, front_end: FrontEnd) -> None:
    host.switch.vsctl("set", "Port", PORT, "tag=10")


def take_away(host: Any, peer: Peer) -> tuple[str, int]:
    """Another machine takes the MAC, and the bridge learns that."""
    elsewhere = (str(host.switch.ofport("peer-br0")), 0)
    peer.send(rarp(MAC))
    wait_until(lambda: place(host) == elsewhere, "the MAC is elsewhere")
    return elsewhere


@pytest.mark.parametrize(
    ("trigger", "happens"), [("resumed", pause), ("reconnect", lose), ("port-moved", move)]
)
def test_a_mac_that_is_on_another_port_is_not_announced(
    host, add, trigger: str, happens: Callable[[Any, FrontEnd], None]
) -> None:
    peer = Peer(host)
    front_end = add(ATTACHED, ONCE)
    front_end.learned(MAC)
    front_end.move_in()
    wait_log(host, 2)
    elsewhere = take_away(host, peer)
    before = len(peer.seen())

    happens(host, front_end)

    after = {entry["mac"]: entry for entry in wait_log(host, 4)[2:]}
    assert {entry["trigger"] for entry in after.values()} == {trigger}
    moved, own = after[MAC.hex(":")], after[NIC.hex(":")]
    assert (moved["outcome"], moved["reason"]) == (
        "refused",
        f"mac-elsewhere: on port {elsewhere[0]}",
    )
    assert own["outcome"] == "learned", "what rows give stays the guest's"
    assert place(host) == elsewhere
    assert len(peer.seen()) == before
    order = front_end.order()
    assert order == ForgetStations((StationKey(MAC, 0),))
    # The guest sends from it again: its worker tells so.
    front_end.learned(MAC)
    front_end.status("connected")
    front_end.transmit(rarp(MAC))
    vlan = 10 if trigger == "port-moved" else 0
    own_port = (str(host.wait_ofport(PORT)), vlan)
    table = lambda: host.switch.appctl("ovs-vswitchd", "fdb/show", BRIDGE)  # noqa: E731
    wait_until(
        lambda: any(
            row.split()[:3] == [own_port[0], str(vlan), MAC.hex(":")]
            for row in table().splitlines()
        ),
        "the bridge has it here",
    )
    front_end.move_in()
    last = wait_log(host, 6)[4:]
    assert {(e["trigger"], e["outcome"]) for e in last} == {("resumed", "learned")}


def test_a_guest_that_moved_in_is_announced_wherever_the_bridge_had_it(host, add) -> None:
    peer = Peer(host)
    take_away(host, peer)
    front_end = add(ONCE)
    front_end.learned(MAC)
    front_end.move_in()
    (entry,) = wait_log(host, 1)
    assert (entry["trigger"], entry["outcome"]) == ("moved-in", "learned")


def test_what_has_moved_on_does_not_migrate_with_the_guest(host, add) -> None:
    """And a guest whose migration failed may have been seen elsewhere itself."""
    peer = Peer(host)
    front_end = add(ONCE, "external_ids:vhost-user-announce=rounds=1 hold=off")
    front_end.learned(MAC)
    front_end.move_in()
    wait_log(host, 1)
    take_away(host, peer)
    front_end.status("running", features=GUEST_ANNOUNCE | LOG_ALL)
    assert front_end.order() == ForgetStations((StationKey(MAC, 0),))
    front_end.learned(MAC)
    front_end.status("connected", features=GUEST_ANNOUNCE | LOG_ALL)
    front_end.move_in()
    entry = wait_log(host, 2)[1]
    assert (entry["trigger"], entry["outcome"]) == ("resumed", "learned")
    assert len(announcements(host)) == 2
