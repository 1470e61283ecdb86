# SPDX-License-Identifier: Apache-2.0
"""OpenStack's os-vif plugs a VM's port as on OVS-DPDK, and the guest is on the network."""

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.control.openstack_host import Vif, missing, plug, transact, unplug
from support.system.page import block, blocks

from ovs_vhost_plugin.guest.soft import Config, SoftGuest
from ovs_vhost_plugin.lab.hosts.fabric import finish_checksums
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.hosts.namespace import Namespace, veth
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import run, wait_until

pytestmark = pytest.mark.system

GUEST = IPv4Address("10.0.0.2")
LOCAL_VLAN = 7  # as Neutron's agent gives one to each network of a host
DEAD_VLAN = 4095


class Site:
    """A host that takes OVS-DPDK's ports over, a neighbour in the VM's network, and the VM."""

    def __init__(self, stack: ExitStack, top: Path) -> None:
        options = ["--adopt-dpdk-types"]
        self.host = stack.enter_context(Host("nova", top / "h", daemon_options=options))
        self.neighbour = stack.enter_context(Namespace("neighbour"))
        veth(self.neighbour, "eth0", self.host.namespace, "up0")
        for namespace, device in ((self.neighbour, "eth0"), (self.host.namespace, "up0")):
            finish_checksums(namespace, device)
        self.neighbour.address("eth0", "10.0.0.1/24")
        self.host.switch.add_port(BRIDGE, "up0", tag=LOCAL_VLAN)
        self.guest: SoftGuest | None = None
        self._stack = stack

    def start(self, vif: Vif) -> None:
        """Start the VM on a port that is there; on a socket of its own as QEMU's server mode."""
        config = Config(mac=bytes.fromhex(vif.mac.replace(":", "")), address=GUEST)
        self.guest = SoftGuest(vif.path, config, server=vif.mode == "server")
        self._stack.callback(self.guest.close)
        self.guest.start()
        self.host.wait_running(vif.name)

    def pings(self, seconds: int = 50) -> bool:
        """Whether the guest answers the neighbour within so many seconds."""
        assert self.guest is not None
        argv = ["ping", "-n", "-c", "3", "-i", "0.1", "-w", str(seconds), str(GUEST)]
        ping = self.neighbour.start(argv, self.host.directory / "ping.out")
        while ping.running:
            self.guest.receive(0.05)
        return ping.returncode == 0

    def command(self, line: str) -> str:
        """A command of the page, on this host."""
        path = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        argv = self.host.namespace.argv(*shlex.split(line))
        return run(argv, env={**self.host.switch.env, "PATH": path}).stdout

    def libvirt(self, *command: str) -> str:
        """`ovs-vsctl` as libvirt calls it (src/util/virnetdevopenvswitch.c)."""
        argv = ["ovs-vsctl", f"--db={self.host.switch.db}", "--timeout=5", *command]
        return run(argv).stdout.strip()


@pytest.fixture
def site(require) -> Iterator[Site]:
    words = packages.missing(packages.SWITCH, root=False) or missing()
    require(not words, words)
    with ExitStack() as stack:
        top = stack.enter_context(TemporaryDirectory(prefix="ovs-vhost-"))
        yield Site(stack, Path(top))


def test_a_vm_that_listens_is_isolated_wired_watched_plugged_again_and_unplugged(site) -> None:
    host, switch = site.host, site.host.switch
    vif = Vif("server", host.directory / "vm.sock", isolate=True)
    plug(host, vif)
    host.wait_status(vif.name, "connecting")
    assert switch.interface(vif.name, "type") == ""
    assert switch.interface(vif.name, "external_ids:iface-id") == vif.id
    assert switch.interface(vif.name, "external_ids:attached-mac") == vif.mac
    assert switch.vsctl("get", "Port", vif.name, "tag", "vlan_mode", "trunks").split() == [
        str(DEAD_VLAN),
        "trunk",
        f"[{DEAD_VLAN}]",
    ]

    # Isolated, until Neutron's agent has wired it: then it is announced to its network.
    site.start(vif)
    assert host.announcements() == []
    transact(
        host,
        ("db_set", ["Port", vif.name, ["tag", LOCAL_VLAN]]),
        ("db_clear", ["Port", vif.name, "vlan_mode"]),
        ("db_clear", ["Port", vif.name, "trunks"]),
    )
    wait_until(host.announcements, "an announcement")
    first = host.announcements()[0]
    assert (first["trigger"], first["mac"], first["outcome"]) == ("port-moved", vif.mac, "learned")
    place = str(host.wait_ofport(vif.name)), LOCAL_VLAN
    assert switch.fdb(BRIDGE)[vif.mac] == place
    assert site.pings()

    # libvirt looks for the port by its path, and for its counters by the name.
    find = "--columns=name", "find", "Interface", f"options:vhost-server-path={vif.path}"
    assert site.libvirt("--no-headings", *find).strip('"') == vif.name
    columns = "--format=list", "--data=json", "--no-headings", "--columns=statistics"
    ask = "--if-exists", *columns, "list", "Interface", vif.name

    def counted() -> bool:
        counters = dict(json.loads(site.libvirt(*ask))[1])
        return counters["rx_packets"] >= 3 and counters["tx_packets"] >= 3

    wait_until(counted, "the switch's counters", poll=0.2)

    # What docs/openstack.md has people look at.
    start = block("openstack.md", "ini", "ExecStartPre=").partition("ExecStartPre=/usr/bin/")[2]
    assert site.command(start) == ""
    shown = [
        site.command(line)
        for text in blocks("openstack.md", "sh")
        for line in text.split("\n")[:-1]
    ]
    types, row, ports, stats, log = shown
    assert "dpdkvhostuserclient" in types
    assert vif.name in row and vif.id in row
    assert vif.name in ports and "running" in ports
    assert vif.name in stats
    assert "port-moved" in log

    # Nova plugs all its VMs' ports again when it starts: it sets the type that we have emptied.
    worker = host.worker_pid(vif.name)
    plug(host, vif)
    wait_until(lambda: switch.interface(vif.name, "type") == "", "the type is emptied again")
    assert site.pings()
    assert host.worker_pid(vif.name) == worker
    assert switch.vsctl("get", "Port", vif.name, "tag") == str(LOCAL_VLAN)

    unplug(host, vif)
    wait_until(lambda: not host.namespace.run("ip", "link", "show", vif.name, check=False), "end")
    assert vif.name not in switch.vsctl("list-ports", BRIDGE)


def test_a_vm_that_connects_is_plugged_and_unplugged(site) -> None:
    host = site.host
    vif = Vif("client", host.directory / "vhu5e1f0de0-12")
    assert vif.path.name == vif.name, "the port's own socket, as Neutron names it"
    plug(host, vif)
    host.wait_status(vif.name, "listening")
    host.switch.vsctl("set", "Port", vif.name, f"tag={LOCAL_VLAN}")
    site.start(vif)
    assert site.pings()
    unplug(host, vif)
    wait_until(lambda: not vif.path.exists(), "the socket's end")
