# SPDX-License-Identifier: Apache-2.0
"""Private switches with guests of every kind that is compared: on our ports and on the peers'.

The compiled guest is Linux's own stack in a namespace, at native speed. QEMU emulates its guest's
processor here, which is then the limit: its back-ends are compared with each other alone.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovs_vhost_plugin.lab.guests import image
from ovs_vhost_plugin.lab.guests.compiled import CompiledNamespace
from ovs_vhost_plugin.lab.guests.qemu import GuestConfig, QemuGuest, Tap, VhostUser
from ovs_vhost_plugin.lab.hosts.dpdk import DpdkHost
from ovs_vhost_plugin.lab.hosts.fabric import finish_checksums
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.hosts.namespace import Namespace, veth
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import wait_until

OURS, VETH, DPDK = "ovs-vhost", "veth", "ovs-dpdk"
QEMU_OURS, QEMU_TAP = "QEMU on ovs-vhost", "QEMU's tap"
BESIDE = {VETH: OURS, DPDK: OURS, QEMU_TAP: QEMU_OURS}
"""A peer → what of ours is compared with it."""
RING = "1024"
_SLEEP = "other_config:pmd-maxsleep"

Guest = Namespace | QemuGuest


@dataclass(frozen=True, slots=True)
class Peer:
    """A client behind a switch, and a guest at its other end."""

    client: Namespace
    guest: Guest
    address: str
    host: Host

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """The peer's turn: OVS-DPDK's thread polls without a pause, else it sleeps at times."""
        if not isinstance(self.host, DpdkHost):
            yield
            return
        self.host.switch.vsctl("set", "Open_vSwitch", ".", f"{_SLEEP}=0")
        try:
            yield
        finally:
            self.host.switch.vsctl("set", "Open_vSwitch", ".", f"{_SLEEP}=250")


def available(wanted: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The peers of `wanted` that can run here, and why each other one cannot."""
    needed = {DPDK: (packages.DPDK_SWITCH,), QEMU_TAP: packages.GUEST}
    missing = {name: packages.missing(needed.get(name, ()), root=False) for name in wanted}
    there = [name for name in wanted if missing[name] is None]
    if QEMU_TAP in there:
        there.append(QEMU_OURS)
    return there, {name: words for name, words in missing.items() if words}


class SwitchSite:
    """Switches with or without userspace-tso-enable; guests on the ports of each peer wanted."""

    def __init__(self, closing: contextlib.ExitStack, tso: bool, wanted: Sequence[str]) -> None:
        self._closing = closing
        self._tso = tso
        self.directory = Path(
            closing.enter_context(tempfile.TemporaryDirectory(prefix="ovs-vhost-"))
        )
        self.peers: dict[str, Peer] = {}
        host = closing.enter_context(Host("v", self.directory / "v", userspace_tso=tso))
        client = self._cable(host, "client", "c0", "10.0.0.1/24")
        if any(BESIDE.get(name) == OURS for name in wanted) or OURS in wanted:
            self.peers[OURS] = self._compiled(host, client)
        if VETH in wanted:
            plain = self._cable(host, "plain", "p0", "10.0.0.3/24")
            self.peers[VETH] = Peer(client, plain, "10.0.0.3", host)
        if DPDK in wanted:
            other = closing.enter_context(
                DpdkHost("d", self.directory / "d", userspace_tso=tso, daemon=False)
            )
            far = self._cable(other, "dclient", "c0", "10.0.0.1/24")
            self.peers[DPDK] = self._compiled(other, far)
        if QEMU_OURS in wanted:
            path = host.add_client_port("vhu1")
            host.wait_ready("vhu1")
            self.peers[QEMU_OURS] = self._qemu(host, client, VhostUser(path), 4)
            host.wait_running("vhu1")
        if QEMU_TAP in wanted:
            host.namespace.tap("tap1")
            host.switch.add_port(BRIDGE, "tap1")
            self.peers[QEMU_TAP] = self._qemu(host, client, Tap("tap1", offloads=tso), 5)
        for peer in self.peers.values():
            peer.client.ping(peer.address)

    def _compiled(self, host: Host, client: Namespace) -> Peer:
        kind = ("type=dpdkvhostuserclient",) if isinstance(host, DpdkHost) else ()
        # Without the mirror that the lab has for captures
        path = Host.add_client_port(host, "vhu0", None, *kind)
        host.wait_ready("vhu0")
        guest = CompiledNamespace(
            f"vm{host.label}", path, self.directory, "10.0.0.2/24", ("--size", RING)
        )
        self._closing.enter_context(guest)
        guest.wait_running()
        host.wait_running("vhu0")
        return Peer(client, guest.namespace, "10.0.0.2", host)

    def _qemu(self, host: Host, client: Namespace, backend: VhostUser | Tap, number: int) -> Peer:
        address = f"10.0.0.{number}"
        config = GuestConfig(mac=f"52:54:00:00:00:{number:02x}", address=f"{address}/24")
        directory = self.directory / f"q{number}"
        guest = QemuGuest(host.namespace, directory, image.build(), backend, config)
        self._closing.enter_context(guest)
        return Peer(client, guest, address, host)

    def _cable(self, host: Host, label: str, port: str, address: str) -> Namespace:
        namespace = self._closing.enter_context(Namespace(label))
        veth(namespace, "eth0", host.namespace, port)
        namespace.address("eth0", address)
        if not self._tso:
            for place, device in ((namespace, "eth0"), (host.namespace, port)):
                finish_checksums(place, device)
        host.switch.add_port(BRIDGE, port)
        return namespace

    def serve(self, guest: Guest, command: str, port: int) -> None:
        """Start a server in a guest, and return when it listens at a TCP port."""
        if isinstance(guest, QemuGuest):
            guest.run(f"{command} >/dev/null 2>&1 </dev/null &")
            # proc(5): the state 0A is LISTEN.
            shown = f"grep -q ':{port:04X} .* 0A ' /proc/net/tcp /proc/net/tcp6; echo $?"
            wait_until(lambda: guest.run(shown).strip() == "0", f"{command} listens")
            return
        output = self.directory / f"{guest.name}-{port}.out"
        server = guest.start(command.split(), output)
        self._closing.callback(server.stop)
        listed = ("ss", "--listening", "--tcp", "--numeric", "--no-header")
        wait_until(lambda: f":{port} " in guest.run(*listed), f"{command} listens")
