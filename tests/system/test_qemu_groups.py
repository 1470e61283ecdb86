# SPDX-License-Identifier: Apache-2.0
"""A guest in QEMU moves to a bridge that snoops multicast, and stays in its group."""

from ipaddress import ip_address

import pytest

from ovs_vhost_plugin.lab.guests import image
from ovs_vhost_plugin.lab.guests.qemu import GuestConfig, QemuGuest, VhostUser
from ovs_vhost_plugin.lab.hosts.fabric import CLIENT_ADDRESS, CLIENT_MAC, Fabric
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.measure.capture import Capture
from ovs_vhost_plugin.lab.measure.flow import RECORD_SIZE, Flow
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("qemu_programs")]

PORT = "vhu0"
GROUP, UDP_PORT = "239.1.2.3", 7000
IGMP = 2  # IANA, Protocol Numbers
REPORTS = 2
"""As many does Linux send when it joins (RFC 3376, 8.11)."""
IP = f"/{image.FULL}/ip"
SNOOPS = (
    "mcast_snooping_enable=true",
    # Or a group that nobody has reported goes to all.
    "other_config:mcast-snooping-disable-flood-unregistered=true",
)


def qemu(host: Host, *, incoming: bool = False) -> QemuGuest:
    config = GuestConfig(
        mac="52:54:00:00:00:05",
        address="10.0.0.5/24",
        neighbours={CLIENT_ADDRESS: CLIENT_MAC},
        # With it Linux reports its groups by itself (netdev_notify_peers in net/core/dev.c).
        device={"guest_announce": "off"},
    )
    backend = VhostUser(host.directory / f"{PORT}.sock")
    directory = host.directory / "guest"
    return QemuGuest(host.namespace, directory, image.build(), backend, config, incoming=incoming)


def members(host: Host) -> set[str]:
    """The OpenFlow numbers of the ports that are in the group."""
    return {port for port, groups in host.switch.groups(BRIDGE).items() if GROUP in groups}


def reports(tap: Capture) -> int:
    """How many reports of the group the guest has sent."""
    group = ip_address(GROUP).packed
    sent = [frame.data for frame in tap.frames() if not frame.outgoing]
    return sum(data[23] == IGMP and group in data[34:] for data in sent)


def test_a_guest_that_moves_stays_in_its_group() -> None:
    """No querier is there, and Linux reports a group of its own accord only when it joins."""
    with Fabric() as fabric:
        for host in (fabric.a, fabric.b):
            host.add_client_port(PORT)
            host.wait_ofport(PORT)
            host.switch.vsctl("set", "Bridge", BRIDGE, *SNOOPS)
        fabric.client.run("ip", "route", "add", "239.0.0.0/8", "dev", "eth0")
        with (
            qemu(fabric.a) as here,
            qemu(fabric.b, incoming=True) as there,
            Capture(fabric.a.namespace, PORT) as tap,
            Flow(fabric.client, (GROUP, UDP_PORT), rate=100) as flow,
        ):
            here.run(f"{IP} address add {GROUP}/32 dev eth0 autojoin")
            here.run(f"nc.openbsd -u -l {GROUP} {UDP_PORT} >/tmp/group 2>&1 &")
            wait_until(lambda: members(fabric.a) == {str(fabric.a.wait_ofport(PORT))}, "a member")
            wait_until(lambda: int(here.run("wc -c </tmp/group")), "datagrams before")
            wait_until(lambda: reports(tap) == REPORTS, "all reports of its own accord")
            assert members(fabric.b) == set()

            here.migrate(there)

            wait_until(lambda: members(fabric.b) == {str(fabric.b.wait_ofport(PORT))}, "a member")
            missed = flow.sent
            last = f"tail -c {RECORD_SIZE} /tmp/group | cut -c 1-8"
            wait_until(lambda: int(there.run(last)) >= missed, "datagrams after")
