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

from ovs_vhost_plugin.bench.hugepages import reserved
from ovs_vhost_plugin.lab.guests import image
from ovs_vhost_plugin.lab.guests.compiled import CompiledNamespace
from ovs_vhost_plugin.lab.guests.qemu import GuestConfig, QemuGuest, Tap, VhostUser
from ovs_vhost_plugin.lab.hosts.dpdk import DpdkHost, DpdkSwitch
from ovs_vhost_plugin.lab.hosts.fabric import finish_checksums
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.hosts.namespace import Namespace, veth
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import wait_until

OURS, VETH, DPDK = "ovs-vhost", "veth", "ovs-dpdk"
QEMU_OURS, QEMU_TAP = "QEMU on ovs-vhost", "QEMU's tap"
BESIDE = {VETH: OURS, DPDK: OURS, QEMU_TAP: QEMU_OURS}
"""A peer → what of ours is compared with it."""
KINDS = {"packed rings": ("--packed",), "two queue pairs": ("--queue-pairs", "2")}
"""Other compiled guests on our port → the command's options."""
RING = "1024"
ROOM = 1024  # MiB of OVS-DPDK's memory
_SLEEP = "other_config:pmd-maxsleep"

Guest = Namespace | QemuGuest


@dataclass(frozen=True, slots=True)
class SwitchPeer:
    """A client behind a switch, and a guest at its other end."""

    client: Namespace
    guest: Guest
    address: str
    host: Host


class RoomyDpdkSwitch(DpdkSwitch):
    """OVS-DPDK with hugepages, and memory for as many packets as it asks for by default."""

    memory = f"--in-memory -m {ROOM}"


class RoomyDpdkHost(DpdkHost):
    """A host of the lab whose switch has hugepages, as its documentation wants it."""

    switch_type = RoomyDpdkSwitch


@contextlib.contextmanager
def dpdk_host(directory: Path, *, tso: bool) -> Iterator[Host]:
    """A host with OVS-DPDK, with hugepages where the machine has room for them."""
    with reserved(ROOM << 20) as hugepages:
        kind = RoomyDpdkHost if hugepages else DpdkHost
        with kind("d", directory, userspace_tso=tso, daemon=False) as host:
            yield host


@contextlib.contextmanager
def turn(host: Host) -> Iterator[None]:
    """A host's turn: OVS-DPDK's thread polls without a pause, else it sleeps at times."""
    if not isinstance(host, DpdkHost):
        yield
        return
    host.switch.vsctl("set", "Open_vSwitch", ".", f"{_SLEEP}=0")
    try:
        yield
    finally:
        host.switch.vsctl("set", "Open_vSwitch", ".", f"{_SLEEP}=250")


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
        self.peers: dict[str, SwitchPeer] = {}
        host = closing.enter_context(Host("v", self.directory / "v", userspace_tso=tso))
        client = self._cable(host, "client", "c0", "10.0.0.1/24")
        if any(BESIDE.get(name) == OURS or name in (OURS, *KINDS) for name in wanted):
            self.peers[OURS] = self._compiled(host, client, 2)
        if VETH in wanted:
            plain = self._cable(host, "plain", "p0", "10.0.0.3/24")
            self.peers[VETH] = SwitchPeer(client, plain, "10.0.0.3", host)
        if DPDK in wanted:
            other = closing.enter_context(dpdk_host(self.directory / "d", tso=tso))
            far = self._cable(other, "dclient", "c0", "10.0.0.1/24")
            self.peers[DPDK] = self._compiled(other, far, 2)
        for number, name in enumerate((QEMU_OURS, QEMU_TAP), 4):
            if name in wanted:
                self.peers[name] = self._qemu(host, client, number, tap=name == QEMU_TAP)
        for number, name in enumerate(KINDS, 6):
            if name in wanted:
                self.peers[name] = self._compiled(host, client, number, KINDS[name])
        for peer in self.peers.values():
            peer.client.ping(peer.address)

    def _compiled(
        self, host: Host, client: Namespace, number: int, options: Sequence[str] = ()
    ) -> SwitchPeer:
        guest = compiled_guest(self._closing, self.directory, host, number, options)
        return SwitchPeer(client, guest, address(number), host)

    def _qemu(self, host: Host, client: Namespace, number: int, *, tap: bool) -> SwitchPeer:
        guest = qemu_guest(self._closing, self.directory, host, number, tap=tap, tso=self._tso)
        return SwitchPeer(client, guest, address(number), host)

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
        serve(self._closing, self.directory, guest, command, port)


def address(number: int) -> str:
    """The address of a guest."""
    return f"10.0.0.{number}"


def compiled_guest(
    closing: contextlib.ExitStack,
    directory: Path,
    host: Host,
    number: int,
    options: Sequence[str] = (),
) -> Namespace:
    """A compiled guest on a vhost-user port `vhuN` of the host's switch; `options`: more of it."""
    port = f"vhu{number}"
    kind = ("type=dpdkvhostuserclient",) if isinstance(host, DpdkHost) else ()
    # Without the mirror that the lab has for captures
    path = Host.add_client_port(host, port, None, *kind)
    host.wait_ready(port)
    options = ("--size", RING, "--mac", _mac(number), *options)
    guest = CompiledNamespace(
        f"vm{number}{host.label}", path, directory, f"{address(number)}/24", options
    )
    closing.enter_context(guest)
    guest.wait_running()
    host.wait_running(port)
    return guest.namespace


def qemu_guest(
    closing: contextlib.ExitStack,
    directory: Path,
    host: Host,
    number: int,
    *,
    tap: bool,
    tso: bool,
) -> QemuGuest:
    """A guest in QEMU on our port `vhuN`, or on a tap of QEMU's own, `tapN`."""
    backend: VhostUser | Tap
    if tap:
        port = f"tap{number}"
        host.namespace.tap(port)
        host.switch.add_port(BRIDGE, port)
        backend = Tap(port, offloads=tso)
    else:
        port = f"vhu{number}"
        backend = VhostUser(host.add_client_port(port))
        host.wait_ready(port)
    config = GuestConfig(mac=_mac(number), address=f"{address(number)}/24")
    guest = QemuGuest(host.namespace, directory / f"q{number}", image.build(), backend, config)
    closing.enter_context(guest)
    if not tap:
        host.wait_running(port)
    return guest


def serve(
    closing: contextlib.ExitStack, directory: Path, guest: Guest, command: str, port: int
) -> None:
    """Start a server in a guest, and return when it listens at a TCP port."""
    if isinstance(guest, QemuGuest):
        guest.run(f"{command} >/dev/null 2>&1 </dev/null &")
        # proc(5): the state 0A is LISTEN.
        shown = f"grep -q ':{port:04X} .* 0A ' /proc/net/tcp /proc/net/tcp6; echo $?"
        wait_until(lambda: guest.run(shown).strip() == "0", f"{command} listens")
        return
    server = guest.start(command.split(), directory / f"{guest.name}-{port}.out")
    closing.callback(server.stop)
    listed = ("ss", "--listening", "--tcp", "--numeric", "--no-header")
    wait_until(lambda: f":{port} " in guest.run(*listed), f"{command} listens")


def _mac(number: int) -> str:
    return f"52:54:00:00:00:{number:02x}"
