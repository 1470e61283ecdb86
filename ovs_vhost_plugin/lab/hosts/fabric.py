# SPDX-License-Identifier: Apache-2.0
"""Two private hosts, a switch between them as the physical network, and a client on it.

host a ── up0 ═ a ──┐
                    phy0 ── client (eth0, 10.0.0.1)
host b ── up0 ═ b ──┘

A case of the migration matrix changes what lies between (wiring.py).
"""

from __future__ import annotations

import ctypes
import fcntl
import shutil
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from ovs_vhost_plugin.lab.cases import Uplink
from ovs_vhost_plugin.lab.hosts.dpdk import DpdkHost
from ovs_vhost_plugin.lab.hosts.host import Host
from ovs_vhost_plugin.lab.hosts.libvirt import LibvirtHost
from ovs_vhost_plugin.lab.hosts.namespace import Namespace, scratch_directory, veth
from ovs_vhost_plugin.lab.hosts.switch import PrivateSwitch
from ovs_vhost_plugin.lab.setup import Setup

PHYSICAL = "phy0"
UPLINK, SECOND_UPLINK = "up0", "up1"
NO_FLOW_CACHE, FLOW_CACHE = "flow-limit=0", "flow-limit=200000"
"""The physical switch's cache. Without it the switch learns from each frame, as hardware does.

With the cache (200,000 is Open vSwitch's default) the switch forwards for some time as before it
learned, and when its revalidator runs, an earlier frame may move the address back.
"""
CLIENT_ADDRESS = "10.0.0.1"
CLIENT_MAC = "02:00:00:00:00:01"

HOSTS: dict[str, type[Host]] = {"ovs-vhost": Host, "libvirt": LibvirtHost, "ovs-dpdk": DpdkHost}
"""Kinds of host by the back-end of the guests' ports."""

SIOCETHTOOL = 0x8946  # linux/sockios.h
ETHTOOL_STXCSUM = 0x17  # linux/ethtool.h
_ETHTOOL_VALUE = struct.Struct("=II")
_IFREQ_POINTER = struct.Struct("16sP16x")


class Fabric(Setup):
    """The network of the demo and of the migration tests, in its own temporary directory.

    `userspace_tso` switches offloads on in all three switches; without it the cables carry only
    whole frames with finished checksums, as the userspace datapath then takes no others.
    `backend` serves the guests' ports: "ovs-vhost", our daemon, or "ovs-dpdk" to compare with;
    `daemons=False` makes hosts without a daemon.
    """

    client_port = "c"
    """The physical switch's port that leads to the client."""

    def __init__(
        self,
        *,
        userspace_tso: bool = False,
        backend: str = "ovs-vhost",
        daemons: bool = True,
        daemon_options: Sequence[str] = (),
        directory: Path | None = None,
    ) -> None:
        super().__init__()
        self._offloads = userspace_tso
        self._host_type = HOSTS[backend]
        self._daemons = daemons and backend != "ovs-dpdk"
        self._directory = directory
        self._options = daemon_options
        self._doubled: list[Host] = []
        self.link = Uplink.PLAIN, False
        """The link of the hosts, and whether it is a mesh (wiring.py)."""
        self.client_bridge = PHYSICAL
        """The physical switch's bridge that has the client."""

    def set_neighbour(self, address: str, mac: str) -> None:
        """Give the client a static ARP entry, so that it does not ask a silent guest."""
        command = ("ip", "neigh", "replace", address, "lladdr", mac, "dev", "eth0")
        self.client.run(*command, "nud", "permanent")

    def forget_neighbour(self, address: str) -> None:
        """Delete the client's ARP entry for a guest, so that it asks again."""
        self.client.run("ip", "neigh", "flush", "to", address, "nud", "all")

    def uplink(self, host: Host) -> int:
        """The OpenFlow number of a host's uplink on its own bridge."""
        return host.wait_ofport(UPLINK)

    def add_second_cable(self, host: Host) -> None:
        """Connect the host's second uplink, which is on no bridge of the host yet."""
        if host not in self._doubled:
            self._connect(host.namespace, SECOND_UPLINK, self._second_cable(host))
            self._doubled.append(host)

    def physical_port(self, host: Host) -> int:
        """The OpenFlow number of the port at the client's bridge that leads to a host."""
        tunnelled = self.client_bridge != PHYSICAL
        return self._physical_port(self.tunnel_to(host.label) if tunnelled else self._cable(host))

    def physical_ports(self, host: Host) -> list[int]:
        """The number of `physical_port`, and that of the host's second cable if it has one."""
        second = [self._physical_port(self._second_cable(host))] if host in self._doubled else []
        return [self.physical_port(host), *second]

    def _set_up(self) -> None:
        enter = self._closing.enter_context
        self.directory = self._directory or scratch_directory()
        self._closing.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.client = enter(Namespace("client"))
        wire = enter(Namespace("wire"))
        self.physical = enter(
            PrivateSwitch(
                wire,
                self.directory / "p",
                userspace_tso=self._offloads,
                other_config=[NO_FLOW_CACHE],
            )
        )
        self.physical.add_bridge(PHYSICAL)
        self._connect(self.client, "eth0", self.client_port)
        self.client.run("ip", "link", "set", "eth0", "address", CLIENT_MAC)
        self.client.address("eth0", f"{CLIENT_ADDRESS}/24")
        self.a, self.b = (self._host(label) for label in ("a", "b"))
        with_daemon = (self.a, self.b) if self._daemons else ()
        for host in with_daemon:
            host.launch_daemon()
        for host in with_daemon:
            host.wait_daemon()

    def _host(self, label: str) -> Host:
        host = self._closing.enter_context(
            self._host_type(
                label,
                self.directory / label,
                userspace_tso=self._offloads,
                daemon=False,
                daemon_options=self._options,
            )
        )
        self._connect(host.namespace, UPLINK, self._cable(host))
        host.add_uplink(UPLINK)
        return host

    def _connect(self, namespace: Namespace, device: str, port: str) -> None:
        veth(namespace, device, self.physical.namespace, port)
        if not self._offloads:
            for place, name in ((namespace, device), (self.physical.namespace, port)):
                finish_checksums(place, name)
        self.physical.add_port(PHYSICAL, port)

    def _physical_port(self, name: str) -> int:
        self.physical.wait_until("Interface", name, "ofport>=1")
        return int(self.physical.interface(name, "ofport"))

    @staticmethod
    def tunnel_to(label: str) -> str:
        """The name of a tunnel's port to an end (overlay.py)."""
        return f"tun-{label}"

    @staticmethod
    def _cable(host: Host) -> str:
        return f"to-{host.label}"

    @staticmethod
    def _second_cable(host: Host) -> str:
        return f"to-{host.label}-2"


def finish_checksums(namespace: Namespace, device: str) -> None:
    """Make the kernel finish checksums and segments before a device: `ethtool -K DEVICE tx off`.

    A frame that passes a veth otherwise keeps a partial checksum, and a switch that reads it from a
    packet socket forwards it with that checksum, which is wrong.
    """
    value = bytearray(_ETHTOOL_VALUE.pack(ETHTOOL_STXCSUM, 0))
    address = (ctypes.c_char * len(value)).from_buffer(value)
    with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = _IFREQ_POINTER.pack(device.encode(), ctypes.addressof(address))
        fcntl.ioctl(control, SIOCETHTOOL, request)
