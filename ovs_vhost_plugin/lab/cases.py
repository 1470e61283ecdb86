# SPDX-License-Identifier: Apache-2.0
"""The matrix of live migrations: who tells the network, over which ports, links and pipelines.

A case is data.  `wiring.py` makes its network, `stage.py` plays it; `make migration-report` plays
all of them and tests/system/test_migration_cases.py says what has to hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Uplink(StrEnum):
    """How the guest's bridge reaches the physical network."""

    PLAIN = "plain"
    ACTIVE_BACKUP = "active-backup"
    BALANCE_SLB = "balance-slb"
    PATCH = "patch"


class Pipeline(StrEnum):
    """What the guest's bridge does with a frame; the flows are wiring.py's."""

    NORMAL = "normal"
    LEARN = "learn"
    SECURE = "secure"


@dataclass(frozen=True, slots=True)
class Case:
    """One migration.

    backend    what serves the guest's ports: "ovs-vhost" or "ovs-dpdk", to compare with
    announces  the guest negotiates GUEST_ANNOUNCE; else the back-end gets SEND_RARP
    policy     external_ids:vhost-user-announce of both hosts' ports
    attached   whether external_ids:attached-mac is set on both
    addresses  external_ids:vhost-user-addresses of both; "MAC" stands for the guest's
    port       columns of both Port rows
    vlan       in which the client is, and so the guest for the physical network; 0: none
    tagged     whether the guest tags its frames itself (a VLAN interface in the guest)
    caching    the physical switch has a flow cache: it learns late, and may unlearn
    hung       nothing of the guest's kernel that waits for a work queue runs while it moves
    rate       datagrams a second to the guest
    tcp        an iperf3 stream of TCP_BITS a second instead
    whole      whether every frame has to arrive that came to one of the hosts
    found      whether the network has to find the guest again
    """

    name: str
    what: str
    backend: str = "ovs-vhost"
    announces: bool = False
    policy: str = ""
    attached: bool = False
    addresses: str = ""
    port: tuple[str, ...] = ()
    vlan: int = 0
    tagged: bool = False
    uplink: Uplink = Uplink.PLAIN
    pipeline: Pipeline = Pipeline.NORMAL
    caching: bool = False
    hung: bool = False
    rate: int = 1000
    tcp: bool = False
    whole: bool = True
    found: bool = True


TCP_BITS = 40_000_000
TCP_PACKETS = TCP_BITS // 8 // 1448
"""Of the TCP stream, a second: what an emulated guest takes with ease."""

PLAIN = Case("plain", "the network as it is")

GUEST = "MAC 10.0.0.2"

CASES = (
    Case("send-rarp", "SEND_RARP"),
    Case("guest-announce", "GUEST_ANNOUNCE, nothing known of the guest", announces=True),
    Case("guest-known", "GUEST_ANNOUNCE, and attached-mac", announces=True, attached=True),
    Case("guest-hung", "the same, the guest hangs", announces=True, attached=True, hung=True),
    Case("nobody", "nobody announces (baseline)", policy="off", whole=False, found=False),
    Case("hold-off", "SEND_RARP, hold=off", policy="hold=off", whole=False),
    Case("access", "access port", port=("tag=10",), vlan=10),
    Case("trunk", "trunk port, the guest tags", port=("trunks=10,20",), vlan=20, tagged=True),
    Case(
        "guest-vlan",
        "port without VLANs, the guest tags",
        addresses="MAC vlan=20",
        vlan=20,
        tagged=True,
    ),
    Case("active-backup", "bond, active-backup", uplink=Uplink.ACTIVE_BACKUP),
    Case("balance-slb", "bond, balance-slb", uplink=Uplink.BALANCE_SLB, addresses=GUEST),
    Case("patch", "patch port to a second bridge", uplink=Uplink.PATCH),
    Case("learn", "pipeline of learn()", pipeline=Pipeline.LEARN, whole=False),
    Case("secure", "fail_mode=secure", pipeline=Pipeline.SECURE, whole=False),
    Case("caching", "a flow cache in the switch between", caching=True),
    Case("fast", "10,000 frames a second", rate=10_000),
    Case("tcp", "TCP, iperf3, 40 Mbit/s", tcp=True),
    Case("dpdk-rarp", "OVS-DPDK, SEND_RARP", backend="ovs-dpdk", whole=False),
    Case("dpdk-guest", "OVS-DPDK, GUEST_ANNOUNCE", backend="ovs-dpdk", announces=True, whole=False),
)


def named(name: str) -> Case:
    """The case of this name; KeyError without one."""
    return {case.name: case for case in CASES}[name]
