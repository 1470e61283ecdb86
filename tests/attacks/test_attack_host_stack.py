# SPDX-License-Identifier: Apache-2.0
"""A guest against the network stack of the host under its userspace bridge.

The administrator's settings are the worst there are, and the bridge's flow table is empty: whatever
the host hears or says comes by the tap itself. Each attack succeeds as soon as the chain is not
there, which is tried first in each, with the daemon halted.
"""

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator

import pytest
from support.attacks.tap_attacker import (
    BROADCAST,
    GUEST_MAC,
    arp_request,
    attach,
    neighbour_solicitation,
    ping,
    set_carrier,
    udp,
    write,
)

from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system

PORT = "vhu0"
HOST, GUEST = "192.0.2.1", "192.0.2.9"
ETH_P_ALL = 3
ALL_NODES = bytes.fromhex("333300000001")


class Victim:
    """The host, and the guest's end of its port's tap."""

    def __init__(self, host: Host) -> None:
        self.host = host
        # An address on another device than the guest's, as a host's own are.
        host.namespace.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
        host.namespace.run("ip", "link", "set", "up0", "up")
        host.namespace.run("ip", "link", "set", "up1", "up")
        host.namespace.run("ip", "address", "add", f"{HOST}/24", "dev", "up0")
        with host.namespace.entered():
            self.queue = attach(PORT)
        set_carrier(self.queue)  # else the tap takes no answer
        host.wait_carrier(PORT)
        self.mac = self.link_address()
        self.loosen()

    def link_address(self) -> bytes:
        shown = self.host.namespace.run("cat", f"/sys/class/net/{PORT}/address")
        return bytes.fromhex(shown.strip().replace(":", ""))

    def loosen(self, rp_filter: int = 0) -> None:
        """Whatever a setting can do for the attacker."""
        for scope in ("all", PORT):
            conf = f"net/ipv4/conf/{scope}"
            self.host.namespace.sysctl(f"{conf}/rp_filter", str(rp_filter))
            self.host.namespace.sysctl(f"{conf}/arp_ignore", "0")
            self.host.namespace.sysctl(f"{conf}/accept_local", "1")
        self.host.namespace.sysctl(f"net/ipv6/conf/{PORT}/disable_ipv6", "0")

    def pings(self) -> int:
        """How many echo requests the host has heard."""
        lines = self.host.namespace.run("nstat", "-asz", "IcmpInEchos").splitlines()
        return int(lines[-1].split()[1])

    def ipv6_packets(self) -> int:
        """How many IPv6 packets the host has heard from the tap."""
        lines = self.host.namespace.run("cat", f"/proc/net/dev_snmp6/{PORT}").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("Ip6InReceives")))

    def answers_arp(self) -> bool:
        """The host's stack works on a frame, and says what it says, before the write returns."""
        with self.host.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW) as seen:
            seen.bind((PORT, ETH_P_ALL))
            seen.setblocking(False)
            write(self.queue, arp_request(HOST, GUEST))
            frames = []
            with contextlib.suppress(BlockingIOError):
                while True:
                    frames.append(seen.recv(2048))
        assert arp_request(HOST, GUEST).ljust(60, b"\0") in frames
        return any(frame[:6] == GUEST_MAC and frame[12:14] == b"\x08\x06" for frame in frames)

    def hears_ping(self) -> bool:
        before = self.pings()
        write(self.queue, ping(self.mac, GUEST, HOST))
        return self.pings() > before

    def hears_udp(self) -> bool:
        return self._hears(udp(self.mac, GUEST, HOST, 9999), 9999)

    def hears_dhcp(self) -> bool:
        self.loosen(rp_filter=2)
        return self._hears(udp(BROADCAST, "0.0.0.0", "255.255.255.255", 67), 67)

    def hears_ipv6(self) -> bool:
        before = self.ipv6_packets()
        write(self.queue, neighbour_solicitation(ALL_NODES))
        return self.ipv6_packets() > before

    def _hears(self, frame: bytes, port: int) -> bool:
        with self.host.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
            heard.bind(("0.0.0.0", port))
            heard.setblocking(False)
            write(self.queue, frame)
            try:
                return heard.recv(2048) == b"evil"
            except BlockingIOError:
                return False

    # -- the administrator -----------------------------------------------------------------------

    def flush(self) -> None:
        self.host.namespace.run("nft", "flush", "ruleset")

    def chained(self) -> bool:
        """Whether the chain is there."""
        rules = self.host.namespace.run("nft", "list", "ruleset")
        return f"table netdev ovs-vhost-{PORT}" in rules and "policy drop" in rules

    @contextlib.contextmanager
    def unprotected(self) -> Iterator[None]:
        """The rules are flushed and nobody puts them back, for the length of the context."""
        assert self.host.daemon is not None
        os.kill(self.host.daemon.pid, signal.SIGSTOP)
        try:
            self.flush()
            yield
        finally:
            os.kill(self.host.daemon.pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def victim(host: Host, require: Callable[[object, str], None]) -> Iterator[Victim]:
    lacking = packages.missing((packages.NFT,))
    require(lacking is None, lacking or "")
    host.switch.ofctl("del-flows", str(host.directory / f"{BRIDGE}.mgmt"))
    host.add_server_port(PORT, "external_ids:vhost-user-queues=1")
    # The first worker on a machine waits for its kernels to be compiled.
    host.wait_status(PORT, "listening")
    host.wait_ofport(PORT)
    found = Victim(host)
    yield found
    os.close(found.queue)


ATTACKS = [
    Victim.answers_arp,
    Victim.hears_ping,
    Victim.hears_udp,
    Victim.hears_dhcp,
    Victim.hears_ipv6,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_the_host_neither_hears_nor_answers(
    victim: Victim, attack: Callable[[Victim], bool]
) -> None:
    victim.loosen()
    with victim.unprotected():
        assert attack(victim), "the attack itself does not work"
    # The daemon hears of it and puts it back.
    wait_until(victim.chained, "the chain to be back")
    victim.loosen()
    assert not attack(victim)


def test_what_was_flushed_is_put_back_and_said(victim: Victim) -> None:
    victim.flush()
    wait_until(victim.chained, "the chain to be back")
    assert "removed the table ovs-vhost-vhu0 of nftables" in victim.host.log.read_text()


def test_policing_goes_on_beside_it(victim: Victim) -> None:
    """Whether or not this kernel can police: the port hears its guest, the host does not."""
    host = victim.host
    bridge = str(host.directory / f"{BRIDGE}.mgmt")
    # Not to the bridge's own port: by that the host may hear, and answers.
    host.switch.ofctl("mod-port", bridge, BRIDGE, "no-flood")
    host.switch.ofctl("add-flow", bridge, "actions=NORMAL")
    settings = ("ingress_policing_rate=100000", "ingress_policing_burst=10000")
    host.switch.vsctl("set", "Interface", PORT, *settings)
    try:
        wait_until(lambda: learned(victim), "the bridge to learn from the guest")
        assert victim.chained()
        victim.loosen()
        assert not victim.answers_arp() and not victim.hears_udp()
        host.switch.vsctl("set", "Interface", PORT, "ingress_policing_rate=0")
        assert victim.chained() and not victim.hears_udp()
    finally:
        host.switch.vsctl("set", "Interface", PORT, "ingress_policing_rate=0")
        host.switch.ofctl("del-flows", bridge)
        host.switch.ofctl("mod-port", bridge, BRIDGE, "flood")


def learned(victim: Victim) -> bool:
    write(victim.queue, BROADCAST + GUEST_MAC + b"\x88\xb5")
    return GUEST_MAC.hex(":") in victim.host.switch.fdb(BRIDGE)


def test_the_chain_goes_with_its_port(victim: Victim) -> None:
    host = victim.host
    host.add_server_port("vhu9", "external_ids:vhost-user-queues=1")
    host.wait_status("vhu9", "listening")
    assert "ovs-vhost-vhu9" in host.namespace.run("nft", "list", "ruleset")
    host.delete_port("vhu9")
    wait_until(
        lambda: "ovs-vhost-vhu9" not in host.namespace.run("nft", "list", "ruleset"),
        "the chain of a port that has gone to go",
    )


def test_the_next_daemon_finds_it_and_goes_on(victim: Victim) -> None:
    victim.host.stop_daemon(kill=True)
    try:
        victim.loosen()
        assert victim.chained() and not victim.hears_udp()
        victim.flush()
        assert victim.hears_udp()
    finally:
        victim.host.start_daemon()
    wait_until(victim.chained, "the chain to be back")
    victim.loosen()
    assert not victim.hears_udp()
