# SPDX-License-Identifier: Apache-2.0
"""What a guest says on the wire, the daemon knows: a software guest on a real host."""

import ipaddress
import json
import random
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ovs_vhost_plugin.guest.soft import Config, SoftGuest
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system

MAC, OTHER = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
PORT = "vhu0"


@pytest.fixture(scope="module")
def host(require) -> Iterator[Host]:
    words = packages.missing(packages.SWITCH, root=False)
    require(words is None, words)
    # Not tmp_path: a socket's path has at most 107 bytes.
    with TemporaryDirectory(prefix="ovs-vhost-") as top, Host("learn", Path(top)) as host:
        host.add_client_port(PORT, None, "external_ids:vhost-user-queues=2")
        host.wait_ready(PORT)
        host.wait_ofport(PORT)
        yield host
        host.appctl("exit", "--cleanup")


@contextmanager
def running(host: Host) -> Iterator[SoftGuest]:
    config = Config(queue_pairs=2, timeout=60.0)
    guest = SoftGuest(host.directory / f"{PORT}.sock", config, server=True)
    try:
        guest.start()
        host.wait_status(PORT, "running")
        yield guest
    finally:
        guest.close()
        guest.path.unlink()


def ethernet(source: bytes, kind: int, payload: bytes, vlan: int = 0) -> bytes:
    tag = struct.pack("!HH", 0x8100, vlan) if vlan else b""
    return (b"\xff" * 6 + source + tag + struct.pack("!H", kind) + payload).ljust(60, b"\0")


def arp(source: bytes, ip: str, vlan: int = 0) -> bytes:
    sender = ipaddress.ip_address(ip).packed
    body = bytes.fromhex("0001080006040001") + source + sender + bytes(6) + sender
    return ethernet(source, 0x806, body, vlan)


def advertisement(source: bytes, ip: str) -> bytes:
    sender = ipaddress.ip_address(ip).packed
    body = struct.pack("!BxxxB3x16s", 136, 0x20, sender)
    to = ipaddress.ip_address("ff02::1").packed
    header = struct.pack("!IHBB16s16s", 6 << 28, len(body), 58, 255, sender, to)
    return ethernet(source, 0x86DD, header + body)


def shown(host: Host) -> list[dict[str, object]]:
    ports = json.loads(host.appctl("vhost/show", "--format", "json"))["ports"]
    # A daemon that has just started has yet to hear of the port.
    return ports[0]["addresses"] if ports else [{}]


def stats(host: Host) -> dict[str, object]:
    return json.loads(host.appctl("vhost/stats", PORT, "--format", "json"))["ports"][PORT]


def station(mac: bytes, vlan: int = 0, ipv4: tuple[str, ...] = (), ipv6: tuple[str, ...] = ()):
    return {
        "mac": mac.hex(":"),
        "vlan": vlan,
        "router": False,
        "ipv4": list(ipv4),
        "ipv6": list(ipv6),
    }


def switches(pid: int) -> int:
    """How often the worker's own loop, not those of its rings, has gone to sleep."""
    for line in Path(f"/proc/{pid}/task/{pid}/status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches"):
            return int(line.split()[1])
    raise AssertionError(line)


def transmitted(host: Host) -> int:
    return sum(pair["tx_packets"] for pair in stats(host)["queue_pairs"])


def asleep(pid: int) -> int:
    """Wait until the worker's loop has done all it has to: `switches` then."""
    seen = [-1]

    def settled() -> bool:
        seen.append(switches(pid))
        return seen[-1] == seen[-2]

    wait_until(settled, "the worker sleeps", poll=0.1)
    return seen[-1]


def test_what_a_guest_says_is_shown_told_to_the_next_daemon_and_gone_with_the_guest(host):
    with running(host) as guest:
        guest.send(arp(MAC, "10.0.0.2"), queue=0)
        guest.send(advertisement(MAC, "fe80::5054:ff:fe00:1"), queue=1)
        guest.send(arp(OTHER, "10.7.0.2", vlan=7), queue=1)
        expected = [
            station(MAC, 0, ("10.0.0.2",), ("fe80::5054:ff:fe00:1",)),
            station(OTHER, 7, ("10.7.0.2",)),
        ]
        wait_until(lambda: shown(host) == expected, "the daemon shows them")
        assert stats(host)["addresses"] == expected
        assert "10.7.0.2" in host.appctl("vhost/stats", PORT)

        host.stop_daemon(kill=True)
        host.start_daemon()
        wait_until(lambda: shown(host) == expected, "the next daemon shows them")
    wait_until(lambda: shown(host) == [], "nothing is left")


@pytest.fixture
def network(host) -> Iterator[socket.socket]:
    """Another station of the network, at the bridge's own port."""
    host.namespace.run("ip", "link", "set", BRIDGE, "up")
    with host.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((BRIDGE, 0))
        yield wire


def pause(host: Host, guest: SoftGuest) -> set[int]:
    """Pause the guest and let it go on: how many frames each announcement of it then has."""
    bases = guest.stop_rings()
    host.wait_status(PORT, "connected")
    since = time.monotonic()  # rounds of a pause before may still end after this
    guest.run_on(guest.frontend, bases)

    def announced() -> set[int]:
        resumed = (e for e in host.announcements() if e["trigger"] == "resumed")
        return {e["frames"] for e in resumed if e["received_at"] >= since}

    return wait_until(announced, "it is announced")


@pytest.mark.parametrize(
    ("claim", "vip", "family"),
    [(arp, "10.0.0.9", "ipv4"), (advertisement, "2001:db8::9", "ipv6")],
    ids=["ARP", "ND"],
)
def test_an_address_that_another_has_claimed_is_not_announced_until_the_guest_claims_it_again(
    host, network, claim, vip, family
):
    """A guest gives up a VIP, another machine takes it and says so; then the guest is paused."""
    own, both = station(MAC, 0, ("10.0.0.2",)), station(MAC, 0, ("10.0.0.2",))
    both[family] = [*both[family], vip]
    with running(host) as guest:
        guest.send(arp(MAC, "10.0.0.2"))
        guest.send(claim(MAC, vip), queue=1)
        wait_until(lambda: shown(host) == [both], "the daemon shows both")
        assert pause(host, guest) == {3}, "RARP and both"
        wait_until(
            lambda: network.send(claim(OTHER, vip)) and shown(host) == [own], "it is another's"
        )
        guest.drain()
        assert pause(host, guest) == {2}
        guest.send(claim(MAC, vip), queue=1)
        wait_until(lambda: shown(host) == [both], "it is the guest's again")
        assert pause(host, guest) == {3}


def test_traffic_that_says_nothing_new_does_not_wake_the_worker(host):
    with running(host) as guest:
        frame = arp(MAC, "10.0.0.2")
        guest.send(frame)
        wait_until(lambda: shown(host) == [station(MAC, 0, ("10.0.0.2",))], "it is shown")
        pid = host.worker_pid(PORT)

        def sleeps_through() -> bool:
            before, at_first = transmitted(host), asleep(pid)
            for _ in range(1000):
                guest.send(frame)
            guest.drain()
            slept = switches(pid) == at_first
            assert transmitted(host) - before >= 1000
            return slept

        wait_until(sleeps_through, "a thousand frames that wake it not once")


def test_a_guest_that_makes_up_addresses_harms_nobody(host):
    random.seed(1)
    with running(host) as guest:
        for _ in range(5000):
            made_up = bytes([0x52, *random.randbytes(5)])
            ip = ipaddress.IPv4Address(0x0A000000 + random.randrange(1 << 24))
            guest.send(arp(made_up, str(ip), random.randrange(4095)))
        guest.drain()
        guest.send(arp(MAC, "10.0.0.2"))
        mine = station(MAC, 0, ("10.0.0.2",))
        wait_until(lambda: mine in shown(host), "the last word is shown")
        assert len(shown(host)) == 64
        replaced = sum(pair["learned_replaced"] for pair in stats(host)["queue_pairs"])
        assert replaced >= 5000 - 64
        assert "running" in host.status(PORT)["status"]
