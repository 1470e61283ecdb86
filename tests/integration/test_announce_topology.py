# SPDX-License-Identifier: Apache-2.0
"""Announcements through VLANs, bonds and patch ports, as the other side of the bridge sees them."""

from dataclasses import replace
from ipaddress import ip_address

import dpkt
import pytest
from support.control.announce_bridge import (
    SwitchService,
    Tap,
    ask,
    await_results,
    bridge,
    private_switch,
)

from ovs_vhost_plugin.announce.addresses import spread
from ovs_vhost_plugin.announce.frames.announcements import (
    gratuitous_arp,
    neighbor_advertisement,
    rarp,
)
from ovs_vhost_plugin.announce.result import Outcome
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.net.ethernet import tagged
from ovs_vhost_plugin.net.station import Station
from ovs_vhost_plugin.net.vlan import PortVlan, VlanMode
from ovs_vhost_plugin.openflow import wire

pytestmark = pytest.mark.integration

MAC = bytes.fromhex("525400123456")
IPV4, IPV6 = ip_address("192.0.2.1").packed, ip_address("2001:db8::1").packed
GUEST = Station(MAC, 0, (IPV4,), (IPV6,))


@pytest.fixture(scope="module")
def switch(tmp_path_factory, require):
    with private_switch(tmp_path_factory.mktemp("ovs"), require) as switch:
        yield switch


@pytest.fixture
def service(switch):
    service = SwitchService(switch)
    yield service
    service.close()


def announce(service, location, *stations):
    """Announce what a port at `location` carries of `stations`; all of it has to be learned."""
    service.set_locations({"vhu0": location})
    spreaded = spread(stations, location)
    for station in spreaded:
        ask(service, station)
    results = await_results(service, len(spreaded))
    assert {result.outcome for result in results} == {Outcome.LEARNED}, results


def frames_of(mac, vlan):
    """What an announcement of GUEST's addresses looks like in a VLAN."""
    return [
        tagged(rarp(mac), vlan),
        tagged(gratuitous_arp(mac, IPV4), vlan),
        tagged(neighbor_advertisement(mac, IPV6, router=False), vlan),
    ]


def seen(tap, mac=MAC):
    """What a tap has received from `mac`."""
    return [frame for frame in tap.frames() if frame[6:12] == mac]


def vlans_of(switch, br, mac=MAC):
    """In which VLANs the bridge has `mac`, by port."""
    lines = switch.appctl("ovs-vswitchd", "fdb/show", br.name).splitlines()[1:]
    rows = [line.split() for line in lines]
    return {(int(vlan), port) for port, vlan, found, _ in rows if found == mac.hex(":")}


def test_garp_and_advertisement_reach_others_byte_for_byte_and_decode(switch, service):
    with bridge(switch) as br:
        announce(service, br.location(), GUEST)
        frames = seen(br.taps["peer"])
        assert frames == frames_of(MAC, 0)
        arp = dpkt.ethernet.Ethernet(frames[1]).data
        assert (arp.op, arp.sha, arp.spa, arp.tpa) == (1, MAC, IPV4, IPV4)
        advertisement = dpkt.ethernet.Ethernet(frames[2]).data
        assert (advertisement.src, advertisement.hlim) == (IPV6, 255)
        assert advertisement.data.type == dpkt.icmp6.ND_NEIGHBOR_ADVERT


def test_linux_takes_the_garp_and_the_advertisement_for_what_they_are(switch, service):
    """The host behind the bridge's local port had the addresses at another MAC."""
    with bridge(switch) as br:
        run = switch.namespace.run
        # the lab's namespaces have no IPv6 of their own
        run("sysctl", "-qw", f"net.ipv6.conf.{br.name}.disable_ipv6=0")
        run("ip", "addr", "add", "192.0.2.9/24", "dev", br.name)
        run("ip", "addr", "add", "2001:db8::9/64", "dev", br.name, "nodad")
        for ip in ("192.0.2.1", "2001:db8::1"):
            run(
                "ip",
                "neigh",
                "add",
                ip,
                "lladdr",
                "52:54:00:00:00:99",
                "dev",
                br.name,
                "nud",
                "stale",
            )
        announce(service, br.location(), GUEST)

        def updated():
            return run("ip", "neigh", "show", "dev", br.name).count(MAC.hex(":")) == 2

        wait_until(updated, "both neighbours are known at the guest's MAC")


@pytest.mark.parametrize(
    ("columns", "vlan_mode", "tag", "trunks", "learned_in", "sent_in"),
    [
        (["tag=10"], "", 10, (), {10}, [10]),
        (["vlan_mode=trunk", "trunks=10,20"], "trunk", None, (10, 20), {10, 20}, [10, 20]),
        (
            ["vlan_mode=native-untagged", "tag=5", "trunks=10"],
            "native-untagged",
            5,
            (10,),
            {5, 10},
            [5, 10],
        ),
        (
            ["vlan_mode=native-tagged", "tag=5", "trunks=10"],
            "native-tagged",
            5,
            (10,),
            {5, 10},
            [5, 10],
        ),
        (
            ["vlan_mode=dot1q-tunnel", "tag=7", "other_config:qinq-ethtype=802.1q"],
            "dot1q-tunnel",
            7,
            (),
            {7},
            [7],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_every_vlan_of_a_port_learns_and_the_trunk_behind_it_sees_the_tag(
    switch, service, columns, vlan_mode, tag, trunks, learned_in, sent_in
):
    with bridge(switch) as br:
        switch.vsctl("set", "Port", br.ports["guest"], *columns)
        place = br.location()
        mode = VlanMode(vlan_mode or "access")
        place = replace(place, vlan=PortVlan(mode, tag or 0, frozenset(trunks)))
        announce(service, place, Station(MAC))
        port = str(place.ofport)
        assert vlans_of(switch, br) == {(vlan, port) for vlan in learned_in}
        # the peer is a trunk of all VLANs
        assert seen(br.taps["peer"]) == [tagged(rarp(MAC), vlan) for vlan in sent_in]


def test_through_a_tunnel_a_guest_is_announced_in_each_customer_vlan(switch, service):
    """Its own tags are inner ones: for the bridge all is in one VLAN."""
    columns = ("vlan_mode=dot1q-tunnel", "tag=7", "cvlans=10,20")
    with bridge(switch) as br:
        switch.vsctl("set", "Port", br.ports["guest"], *columns)
        tunnel = PortVlan(VlanMode.DOT1Q_TUNNEL, 7, cvlans=frozenset({10, 20}))
        place = replace(br.location(), vlan=tunnel)
        announce(service, place, Station(MAC), Station(MAC, 20, (IPV4,)), Station(MAC, 30))
        assert vlans_of(switch, br) == {(7, str(place.ofport))}
        service_tag = b"\x88\xa8\x00\x07"
        announced = [(20, rarp(MAC)), (20, gratuitous_arp(MAC, IPV4)), (10, rarp(MAC))]
        assert seen(br.taps["peer"]) == [
            frame[:12] + service_tag + frame[12:]
            for frame in (tagged(frame, vlan) for vlan, frame in announced)
        ]


def test_every_mac_and_vlan_that_a_guest_uses_is_announced(switch, service):
    nested = bytes.fromhex("525400123457")
    stations = [
        GUEST,
        Station(MAC, 20, (IPV4,), (IPV6,)),
        Station(nested, 30),
    ]
    with bridge(switch) as br:
        announce(service, br.location(), *stations)
        port = str(br.ofport("guest"))
        assert vlans_of(switch, br) == {(0, port), (20, port)}
        assert vlans_of(switch, br, nested) == {(30, port)}
        frames = br.taps["peer"].frames()
        assert [frame for frame in frames if frame[6:12] == MAC] == [
            *frames_of(MAC, 0),
            *frames_of(MAC, 20),
        ]
        assert [frame for frame in frames if frame[6:12] == nested] == [tagged(rarp(nested), 30)]


def test_an_announcement_goes_through_a_patch_port(switch, service):
    with bridge(switch) as near, bridge(switch) as far:
        for here, there in ((near, far), (far, near)):
            switch.add_port(
                here.name, f"to-{there.name}", "type=patch", f"options:peer=to-{here.name}"
            )
        patch = wait_until(lambda: switch.ofport(f"to-{near.name}"), "the patch port")
        announce(service, near.location(), GUEST)
        assert far.place_of(MAC) == (str(patch), 0)
        assert seen(far.taps["peer"]) == frames_of(MAC, 0)


def add_bond(switch, br, mode):
    """Add a bond of two taps; return them."""
    members = [f"{br.name}m{index}" for index in (0, 1)]
    taps = [Tap(switch.namespace, name) for name in members]
    switch.vsctl("add-bond", br.name, f"{br.name}bond", *members, f"bond_mode={mode}")
    for name in members:
        wait_until(lambda name=name: switch.ofport(name), f"ofport of {name}")
    bond = f"{br.name}bond"
    wait_until(
        lambda: switch.appctl("ovs-vswitchd", "bond/show", bond).count(": enabled") == 2,
        "both members are up",
    )
    return taps


def test_an_active_backup_bond_sends_one_copy(switch, service):
    with bridge(switch) as br:
        taps = add_bond(switch, br, "active-backup")
        announce(service, br.location(), GUEST)
        copies = [seen(tap) for tap in taps]
        assert sorted(map(len, copies)) == [0, 3]
        assert copies[0] + copies[1] == frames_of(MAC, 0)


def test_a_balance_slb_bond_sends_one_copy_and_takes_the_garp_that_moves_a_guest_away(
    switch, service
):
    """OVS drops a RARP that comes in on such a bond for a MAC it has on a local port.

    It takes it for its own, reflected by the switch behind the bond, but not a gratuitous ARP. So
    where the guest moves to, it is the gratuitous ARP that tells the bridge that it has left.
    """
    with bridge(switch) as br:
        taps = add_bond(switch, br, "balance-slb")
        # by RARP alone: a gratuitous ARP here would lock the MAC to this port for 5 s
        announce(service, br.location(), Station(MAC))
        copies = [seen(tap) for tap in taps]
        assert sorted(map(len, copies)) == [0, 1]
        here = (str(br.ofport("guest")), 0)
        after = bytes.fromhex("525400000077")
        for tap in taps:  # of a broadcast the bond takes the copy on its active member
            tap.send(rarp(MAC))
            tap.send(rarp(after))
        wait_until(lambda: br.place_of(after), "the frame after the RARP")
        assert br.place_of(MAC) == here
        for tap in taps:
            tap.send(gratuitous_arp(MAC, IPV4))
        wait_until(lambda: br.place_of(MAC) != here, "the bridge follows the gratuitous ARP")


@pytest.mark.parametrize("version", list(wire.Version), ids=str)
def test_ovs_ofctl_reads_our_packet_outs(switch, version):
    for frame in frames_of(MAC, 0) + frames_of(MAC, 20):
        message = wire.packet_out(version, 7, 3, wire.Output.TABLE, frame)
        printed = switch.ofctl("ofp-print", message.hex())
        shown = "" if version is wire.Version.OF10 else f" (OF1.{version - 1})"
        assert printed.startswith(f"OFPT_PACKET_OUT{shown} (xid=0x7):")
        assert "in_port=3" in printed and "actions=TABLE" in printed
        assert f"data_len={len(frame)}" in printed
        assert f"dl_src={MAC.hex(':')}" in printed
    assert "arp_spa=192.0.2.1,arp_tpa=192.0.2.1,arp_op=1" in switch.ofctl(
        "ofp-print", wire.packet_out(version, 7, 3, wire.Output.TABLE, frames_of(MAC, 0)[1]).hex()
    )
    advertisement = wire.packet_out(version, 7, 3, wire.Output.NORMAL, frames_of(MAC, 20)[2])
    printed = switch.ofctl("ofp-print", advertisement.hex())
    assert "actions=NORMAL" in printed and "dl_vlan=20" in printed
    assert "icmp_type=136,icmp_code=0,nd_target=2001:db8::1,nd_sll=00:00:00:00:00:00" in printed
    assert f"nd_tll={MAC.hex(':')}" in printed
