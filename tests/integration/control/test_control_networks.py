# SPDX-License-Identifier: Apache-2.0
"""What a port's network has to do with its announcements: spanning tree, bonds, isolation.

The port's worker is a puppet: the test tells as its front-end what it is to report.
"""

from typing import Any

import pytest
from support.control.puppet import MAC, PORT, Peer, announcements, wait_log

from ovs_vhost_plugin.announce.frames.announcements import rarp
from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.integration

ATTACHED = f"external_ids:attached-mac={MAC.hex(':')}"
MEMBERS = (PORT, "puppet1")
ONCE = "external_ids:vhost-user-announce=rounds=1"


def place(host: Any, mac: bytes = MAC) -> tuple[str, int] | None:
    return host.switch.fdb(BRIDGE).get(mac.hex(":"))


def bond(host: Any, mode: str) -> None:
    """Make the two puppets' ports one bond."""
    uuids = [host.switch.vsctl("get", "Interface", name, "_uuid") for name in MEMBERS]
    second = host.switch.vsctl("get", "Port", MEMBERS[1], "_uuid")
    host.switch.vsctl(
        *("remove", "Bridge", BRIDGE, "ports", second, "--", "set", "Port", PORT),
        *(f"bond_mode={mode}", "interfaces=" + ",".join(uuids)),
    )
    wait_until(
        lambda: host.switch.appctl("ovs-vswitchd", "bond/show", PORT).count(": enabled") == 2,
        "both members are up",
    )


def test_a_port_is_announced_when_rstp_lets_it_forward(host, add) -> None:
    """A port that is no edge by configuration forwards after 3 s (802.1D-2004, 17.20.4)."""
    host.switch.vsctl("set", "Bridge", BRIDGE, "rstp_enable=true")
    host.switch.vsctl("set", "Port", BRIDGE, "other_config:rstp-enable=false")
    peer = Peer(host)
    host.switch.wait_until("Port", "peer-br0", "rstp_status:rstp_port_state=Forwarding")
    front_end = add(ATTACHED, ONCE)
    front_end.send_rarp(MAC)
    front_end.move_in()
    entries = wait_until(
        lambda: [e for e in announcements(host) if e["outcome"] == "learned"], "it is learned"
    )
    assert host.switch.vsctl("get", "Port", PORT, "rstp_status:rstp_port_state") == "Forwarding"
    assert entries[0]["attempts"] == 1, "nothing was sent before"
    assert rarp(MAC) in peer.seen()
    assert place(host) == (str(host.wait_ofport(PORT)), 0)


@pytest.mark.parametrize(
    ("columns", "state"),
    [
        (["rstp_enable=true"], "rstp_status:rstp_port_state=Forwarding"),
        # The shortest delay, which passes twice; no less than half the age (802.1D-1998, 8.10.2).
        (
            [
                *("stp_enable=true", "other_config:stp-forward-delay=4"),
                *("other_config:stp-max-age=6", "other_config:stp-hello-time=1"),
            ],
            "status:stp_state=forwarding",
        ),
    ],
    ids=["RSTP", "STP"],
)
def test_a_guest_that_runs_is_announced_when_its_port_forwards_again(
    host, add, columns, state
) -> None:
    host.switch.vsctl("set", "Port", BRIDGE, "other_config:rstp-enable=false")
    add(ATTACHED, ONCE).move_in()
    wait_log(host, 1)
    host.switch.vsctl("set", "Bridge", BRIDGE, *columns)
    entry = wait_log(host, 2)[1]
    assert (entry["trigger"], entry["outcome"]) == ("port-forwards", "learned")
    host.switch.wait_until("Port", PORT, state)


@pytest.mark.parametrize("mode", ["active-backup", "balance-slb"])
def test_a_guest_on_any_member_of_a_bond_is_learned(host, add, mode) -> None:
    """Also by RARP alone, which a balance-slb bond drops for a MAC that is known elsewhere."""
    peer = Peer(host)
    front_ends = [add(ONCE, port=name) for name in MEMBERS]
    for front_end in front_ends:
        front_end.status("running")
    bond(host, mode)
    elsewhere = (str(host.switch.ofport("peer-br0")), 0)
    for name, front_end in zip(MEMBERS, front_ends, strict=True):
        peer.send(rarp(MAC))
        wait_until(lambda: place(host) == elsewhere, "it is elsewhere")
        front_end.send_rarp(MAC)
        entry = wait_log(host, 1, name)[-1]
        assert (entry["outcome"], entry["reason"]) == ("learned", "")
        assert place(host) in [(str(host.wait_ofport(member)), 0) for member in MEMBERS]


@pytest.mark.parametrize("columns", [["tag=4095"], ["vlan_mode=trunk", "trunks=4095"]])
def test_a_port_in_vlan_4095_alone_is_isolated_until_it_is_wired(host, add, columns) -> None:
    """As Neutron leaves a port until its agent has wired it."""
    add(ATTACHED, ONCE).move_in()
    wait_log(host, 1)
    host.switch.vsctl("set", "Port", PORT, *columns)
    isolated = wait_log(host, 2)[1]
    announced = host.wait_status_of(PORT, lambda s: "isolated" in s.get("announced", ""))
    host.switch.vsctl("set", "Port", PORT, "tag=[]", "vlan_mode=[]", "trunks=[]")
    wired = wait_log(host, 3)[2]

    assert (isolated["trigger"], isolated["outcome"]) == ("port-moved", "isolated")
    assert announced["announced"].endswith("isolated port-moved: it is in VLAN 4095 alone")
    assert isolated["frames"] == 0
    assert (wired["trigger"], wired["outcome"]) == ("port-moved", "learned")
