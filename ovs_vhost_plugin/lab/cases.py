# SPDX-License-Identifier: Apache-2.0
"""The matrix of live migrations: who tells the network, over which ports, links and pipelines.

A case is data.  `wiring.py` makes its network, `stage.py` plays it; `make migration-report` plays
all of them, and tests/system/test_migration_cases.py checks their results.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class Uplink(StrEnum):
    """The link of the guest's bridge to the physical network."""

    PLAIN = "plain"
    ACTIVE_BACKUP = "active-backup"
    BALANCE_SLB = "balance-slb"
    PATCH = "patch"
    VXLAN = "vxlan"
    GENEVE = "geneve"

    @property
    def tunnel(self) -> bool:
        """Whether the bridges are joined by tunnels over the physical network (overlay.py)."""
        return self in (Uplink.VXLAN, Uplink.GENEVE)


class Pipeline(StrEnum):
    """The guest's bridge's handling of a frame; wiring.py has the flows."""

    NORMAL = "normal"
    LEARN = "learn"
    SECURE = "secure"
    CONNTRACK = "conntrack"


@dataclass(frozen=True, slots=True)
class Case:
    """One migration.

    backend    back-end of the guest's ports: "ovs-vhost", or "ovs-dpdk" to compare with
    announces  the guest negotiates GUEST_ANNOUNCE; else the back-end gets SEND_RARP
    policy     external_ids:vhost-user-announce of both hosts' ports
    attached   whether external_ids:attached-mac is set on both
    addresses  external_ids:vhost-user-addresses of both; "MAC" stands for the guest's
    port       columns of both Port rows
    vlan       VLAN of the client, and so of the guest in the physical network; 0: none
    tagged     whether the guest tags its frames itself (a VLAN interface in the guest)
    caching    the physical switch has a flow cache: it learns late, and may unlearn
    hung       no work queue of the guest's kernel runs during the migration
    mesh       tunnels join each two bridges, and do not only lead to the client's
    settings   words of ovs-vsctl for both hosts; {uplink} and {bridge} stand for their names
    rstp       the hosts' bridges run RSTP: a port forwards seconds after its link has come up
    bonded     on both hosts the guest's port and an unused one are a bond, balance-slb
    rate       datagrams a second to the guest, each a frame of `size` + 42 bytes
    tcp        an iperf3 stream of TCP_BITS a second instead
    whole      whether every frame that came to one of the hosts has to arrive
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
    mesh: bool = False
    settings: str = ""
    rstp: bool = False
    bonded: bool = False
    rate: int = 1000
    size: int = 64
    tcp: bool = False
    whole: bool = True
    found: bool = True


TCP_BITS = 40_000_000
TCP_PACKETS = TCP_BITS // 8 // 1448
"""Segments a second of the TCP stream, which an emulated guest takes with ease."""

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

_LARGEST = 1450 - 28
"""Bytes of a datagram whose frame fits a tunnel over a network with an MTU of 1,500 bytes."""
_HTB = (
    "set Port {uplink} qos=@qos -- "
    "--id=@qos create QoS type=linux-htb other_config:max-rate=100000000 queues:0=@queue -- "
    "--id=@queue create Queue other_config:max-rate=50000000"
)
_MIRROR = (
    "add-port {bridge} mirror0 -- set Interface mirror0 type=internal -- "
    "--id=@to get Port mirror0 -- "
    "--id=@mirror create Mirror name=all select_all=true output_port=@to -- "
    "set Bridge {bridge} mirrors=@mirror"
)
_SAMPLES = (
    """--id=@sflow create sFlow agent=lo targets='"127.0.0.1:6343"' sampling=2 polling=1 -- """
    """--id=@ipfix create IPFIX targets='"127.0.0.1:4739"' sampling=2 -- """
    """--id=@netflow create NetFlow targets='"127.0.0.1:2055"' -- """
    "set Bridge {bridge} sflow=@sflow ipfix=@ipfix netflow=@netflow"
)

NETWORKS = tuple(
    replace(case, attached=True)
    for case in (
        Case("vxlan", "VXLAN, a third switch", uplink=Uplink.VXLAN, size=_LARGEST),
        Case("geneve", "Geneve, a third switch", uplink=Uplink.GENEVE, size=_LARGEST),
        Case("vxlan-mesh", "VXLAN, each to each", uplink=Uplink.VXLAN, mesh=True),
        Case("geneve-mesh", "Geneve, each to each", uplink=Uplink.GENEVE, mesh=True),
        Case(
            "native-untagged",
            "native-untagged trunk",
            port=("vlan_mode=native-untagged", "tag=10", "trunks=20"),
            vlan=10,
        ),
        Case(
            "native-tagged",
            "native-tagged trunk, the guest tags",
            port=("vlan_mode=native-tagged", "tag=20", "trunks=10"),
            vlan=20,
            tagged=True,
        ),
        Case("dot1q-tunnel", "tunnel port", port=("vlan_mode=dot1q-tunnel", "tag=10"), vlan=10),
        Case("htb", "QoS of the uplink, linux-htb", settings=_HTB),
        Case("mirror", "all is mirrored to a port", settings=_MIRROR),
        Case("samples", "sFlow, IPFIX and NetFlow", settings=_SAMPLES),
        Case("conntrack", "connection tracking", pipeline=Pipeline.CONNTRACK),
        Case("rstp", "RSTP on both hosts", rstp=True),
        Case("bonded-guest", "the guest's port and another one are a bond", bonded=True),
    )
)
"""More networks, beside those of the report; without `tagged` a software guest suffices.

A software guest moves before a slow daemon has asked the bridge for its addresses, so the rows name
the guest's addresses.
"""


def named(name: str) -> Case:
    """The case of this name; KeyError without one."""
    return {case.name: case for case in (*CASES, *NETWORKS)}[name]
