# SPDX-License-Identifier: Apache-2.0
"""Makes the network of a case from a fabric that may still have another case's.

Only the part between the guests' ports and the physical switch changes: uplinks, flows, VLANs, keys
of the guest's port. Every switch then forgets all it has learned.
"""

from __future__ import annotations

import shlex

from ovs_vhost_plugin.lab.cases import Case, Pipeline, Uplink
from ovs_vhost_plugin.lab.hosts import overlay
from ovs_vhost_plugin.lab.hosts.fabric import (
    FLOW_CACHE,
    NO_FLOW_CACHE,
    SECOND_UPLINK,
    UPLINK,
    Fabric,
)
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.hosts.switch import PrivateSwitch
from ovs_vhost_plugin.lab.process import wait_until

BOND = "bond0"
OUTER_BRIDGE = "br-ext"
MIRROR = "mirror0"
SECOND_MEMBER = "second0"
INNER_PATCH, OUTER_PATCH = "patch-in", "patch-out"

_NORMAL_FLOWS = "priority=0,actions=normal\n"
# ovs-fields(7) and the learning switch of ovs-actions(7), "learn": the MAC table stays empty.
_LEARN_FLOWS = (
    "table=0,actions=learn(table=10,hard_timeout=300,NXM_OF_VLAN_TCI[0..11],"
    "NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],output:NXM_OF_IN_PORT[]),resubmit(,10)\n"
    "table=10,priority=0,actions=flood\n"
)
# ovs-actions(7), "ct": established connections pass both ways.
_CONNTRACK_FLOWS = (
    "table=0,priority=10,ip,actions=ct(table=1)\n"
    "table=0,priority=0,actions=normal\n"
    "table=1,priority=10,ip,ct_state=+trk+new,actions=ct(commit),normal\n"
    "table=1,priority=5,ip,ct_state=+trk-inv,actions=normal\n"
)
_SECURE_FLOWS = (
    "priority=10,in_port={port},dl_src={mac},actions=normal\n"
    "priority=10,in_port={uplink},actions=normal\n"
)


def wire(fabric: Fabric, case: Case, port: str, mac: str) -> None:
    """Make the case's network for the guest `mac` on the hosts' ports `port`."""
    link = case.uplink, case.mesh
    if fabric.link != link:
        if fabric.link[0].tunnel:
            overlay.take_up(fabric)
        for host in (fabric.a, fabric.b):
            _link(fabric, host, case.uplink)
        if case.uplink.tunnel:
            overlay.lay(fabric, case.uplink, mesh=case.mesh)
        fabric.link = link
    for host in (fabric.a, fabric.b):
        _direct(host, case, port, mac)
        _set_port(host.switch, case, port, mac)
        _set_more(host.switch, case, port)
    limit = f"other_config:{FLOW_CACHE if case.caching else NO_FLOW_CACHE}"
    fabric.physical.vsctl("set", "Open_vSwitch", ".", limit)
    _set_vlan(fabric.physical, fabric.client_port, (f"tag={case.vlan}",) if case.vlan else ())
    if case.tagged:
        fabric.client.run("ip", "address", "replace", f"10.0.{case.vlan}.1/24", "dev", "eth0")
    for switch in (fabric.a.switch, fabric.b.switch, fabric.physical):
        switch.appctl("ovs-vswitchd", "fdb/flush")


def wait_passing(switch: PrivateSwitch, case: Case, guest_port: str = "") -> None:
    """Return when a host's bridge forwards on its uplinks, and on the port of a guest there."""
    if case.rstp:
        for port in (*uplinks(case), *filter(None, [guest_port])):
            switch.wait_until("Port", port, "rstp_status:rstp_port_state=Forwarding")
    if case.bonded and guest_port:
        wait_until(
            lambda: (
                f"{guest_port}: enabled" in switch.appctl("ovs-vswitchd", "bond/show", guest_port)
            ),
            "the guest's member of the bond to be enabled",
        )


def uplinks(case: Case) -> tuple[str, ...]:
    """The devices that lead from a host to the physical switch."""
    bonded = case.uplink in (Uplink.ACTIVE_BACKUP, Uplink.BALANCE_SLB)
    return (UPLINK, SECOND_UPLINK) if bonded else (UPLINK,)


def _link(fabric: Fabric, host: Host, uplink: Uplink) -> None:
    """Join the guest's bridge and the cables."""
    vsctl = host.switch.vsctl
    for name in (BOND, UPLINK, INNER_PATCH):
        vsctl("--if-exists", "del-port", name)
    vsctl("--if-exists", "del-br", OUTER_BRIDGE)
    match uplink:
        case Uplink.PLAIN:
            host.add_uplink(UPLINK)
        case Uplink.VXLAN | Uplink.GENEVE:
            pass  # the uplink is below the tunnels
        case Uplink.PATCH:
            host.switch.add_bridge(OUTER_BRIDGE)
            host.switch.add_port(OUTER_BRIDGE, UPLINK)
            ends = (INNER_PATCH, OUTER_PATCH)
            for bridge, name, peer in zip((BRIDGE, OUTER_BRIDGE), ends, ends[::-1], strict=True):
                host.switch.add_port(bridge, name, "type=patch", f"options:peer={peer}")
        case Uplink.ACTIVE_BACKUP | Uplink.BALANCE_SLB:
            fabric.add_second_cable(host)
            members = (UPLINK, SECOND_UPLINK)
            vsctl("add-bond", BRIDGE, BOND, *members, f"bond_mode={uplink}")
            wait_until(
                lambda: (
                    host.switch.appctl("ovs-vswitchd", "bond/show", BOND).count(": enabled")
                    == len(members)
                ),
                "the bond's members to be enabled",
            )


def _direct(host: Host, case: Case, port: str, mac: str) -> None:
    """Give the guest's bridge its pipeline."""
    secure = case.pipeline is Pipeline.SECURE
    mode = ["set", "Bridge", BRIDGE, "fail_mode=secure"]
    host.switch.vsctl(*(mode if secure else ["clear", "Bridge", BRIDGE, "fail_mode"]))
    flows = {
        Pipeline.NORMAL: _NORMAL_FLOWS,
        Pipeline.LEARN: _LEARN_FLOWS,
        Pipeline.CONNTRACK: _CONNTRACK_FLOWS,
        Pipeline.SECURE: _SECURE_FLOWS.format(port=port, mac=mac, uplink=UPLINK),
    }[case.pipeline]
    host.switch.ofctl("del-flows", BRIDGE)
    host.switch.ofctl("add-flows", BRIDGE, "-", stdin=flows)


def _set_port(switch: PrivateSwitch, case: Case, port: str, mac: str) -> None:
    """Set the guest's port up for the case, without remains of another case."""
    _set_vlan(switch, port, case.port)
    keys = {
        "attached-mac": mac if case.attached else "",
        "vhost-user-addresses": case.addresses.replace("MAC", mac),
        "vhost-user-announce": case.policy,
    }
    switch.vsctl("remove", "Interface", port, "external_ids", *keys)
    given = [f'external_ids:{key}="{value}"' for key, value in keys.items() if value]
    if given:
        switch.vsctl("set", "Interface", port, *given)


def _set_more(switch: PrivateSwitch, case: Case, port: str) -> None:
    """Make the case's other settings of a host's switch, and undo those of another case."""
    for column in ("mirrors", "sflow", "ipfix", "netflow"):
        switch.vsctl("clear", "Bridge", BRIDGE, column)
    switch.vsctl("--if-exists", "del-port", MIRROR)
    switch.vsctl("--if-exists", "del-bond-iface", SECOND_MEMBER)
    switch.vsctl("--if-exists", "clear", "Port", UPLINK, "qos")
    switch.vsctl("--", "--all", "destroy", "QoS", "--", "--all", "destroy", "Queue")
    if case.bonded:
        switch.vsctl(
            *("add-bond-iface", port, SECOND_MEMBER),
            *("--", "set", "Interface", SECOND_MEMBER, "external_ids:vhost-user-mode=server"),
            *("--", "set", "Port", port, f"bond_mode={Uplink.BALANCE_SLB}"),
        )
    if case.settings:
        switch.vsctl("--", *shlex.split(case.settings.format(uplink=UPLINK, bridge=BRIDGE)))
    if case.rstp:  # which nothing undoes: stage.py
        switch.vsctl("set", "Bridge", BRIDGE, "rstp_enable=true")


def _set_vlan(switch: PrivateSwitch, port: str, columns: tuple[str, ...]) -> None:
    clear = ["clear", "Port", port, "tag", "trunks", "vlan_mode"]
    switch.vsctl(*clear, *(["--", "set", "Port", port, *columns] if columns else []))
