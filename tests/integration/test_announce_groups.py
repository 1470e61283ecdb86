# SPDX-License-Identifier: Apache-2.0
"""A bridge that snoops is told of a guest's multicast groups by the guest, Linux's own stack."""

import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address

import pytest
from support.control.announce_bridge import Bridge, SwitchService, bridge, private_switch

from ovs_vhost_plugin.announce.frames.queries import queries
from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.hosts.switch import PrivateSwitch
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.net.location import Location

pytestmark = pytest.mark.integration

HOST = bytes.fromhex("020000000001")
GROUPS = {"239.1.2.3", "ff0e::4242"}
ETH_P_ALL = 3  # linux/if_ether.h
REPORTS = Counter(dict.fromkeys(GROUPS, 2))
"""As many does Linux send when it joins (RFC 3376, 8.11; RFC 3810, 9.11).

On a busy machine there are more: again as the device's own address is there."""


@pytest.fixture(scope="module")
def switch(tmp_path_factory, require) -> Iterator[PrivateSwitch]:
    with private_switch(tmp_path_factory.mktemp("ovs"), require) as switch:
        yield switch


@pytest.fixture
def snooping(switch) -> Iterator[Bridge]:
    with bridge(switch, mcast_snooping_enable="true") as br:
        yield br


def known(br: Bridge) -> dict[str, set[str]]:
    """The groups of each port, by its OpenFlow number."""
    return br.switch.groups(br.name)


def join(guest: Namespace, device: str) -> list[socket.socket]:
    """Join both groups; the sockets that keep them."""
    index = int(guest.run("cat", f"/sys/class/net/{device}/ifindex"))
    four = guest.socket(socket.AF_INET, socket.SOCK_DGRAM)
    member = struct.pack("@4s4si", ip_address("239.1.2.3").packed, bytes(4), index)
    four.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    six = guest.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    member = struct.pack("@16si", ip_address("ff0e::4242").packed, index)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
    return [four, six]


def count(wire: socket.socket, reports: Counter[str]) -> Counter[str]:
    """Count the frames that name a group."""
    with suppress(BlockingIOError):
        while True:
            frame = wire.recv(2048)
            reports.update(group for group in GROUPS if ip_address(group).packed in frame[14:])
    return reports


def test_linux_answers_and_the_bridge_knows_its_groups(switch, snooping) -> None:
    br, service = snooping, SwitchService(switch)
    with Namespace("guest") as guest:
        run = guest.run
        switch.namespace.run(
            *("ip", "link", "add", "member", "type", "veth"),
            *("peer", "name", "eth0", "netns", guest.name),
        )
        switch.namespace.run("ip", "link", "set", "member", "up")
        run("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=0")
        run("sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=0")
        run("ip", "link", "set", "eth0", "up")
        run("ip", "addr", "add", "192.0.2.2/24", "dev", "eth0")
        switch.add_port(br.name, "member")
        port = wait_until(lambda: switch.ofport("member"), "its port")
        wire = switch.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW)
        wire.bind(("member", ETH_P_ALL))
        wire.setblocking(False)
        kept = [wire, *join(guest, "eth0")]
        reports: Counter[str] = Counter()
        try:
            wait_until(lambda: count(wire, reports) >= REPORTS, "all reports of its own accord")
            wait_until(lambda: known(br).get(str(port), set()) >= GROUPS, "it has joined")

            def forgotten() -> bool:
                switch.appctl("ovs-vswitchd", "mdb/flush", br.name)
                return known(br) == {}

            wait_until(forgotten, "its groups forgotten, also after a report that comes late")
            path = str(switch.directory / f"{br.name}.mgmt")
            service.set_locations({"vhu0": Location(br.name, port, path)})

            def answered() -> bool:
                service.run()
                service.query("vhu0", queries(HOST, 0))
                service.run()
                return known(br).get(str(port), set()) >= GROUPS

            wait_until(answered, "the guest has answered")
            assert known(br).keys() == {str(port)}
            # the query itself went to the guest alone, and made nobody a querier
            assert not [f for tap in br.taps.values() for f in tap.frames() if f[6:12] == HOST]
        finally:
            service.close()
            for one in kept:
                one.close()
