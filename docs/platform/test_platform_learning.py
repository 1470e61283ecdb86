# SPDX-License-Identifier: Apache-2.0
"""Open vSwitch: what a bridge learns from packet-outs and from frames, and when.

The bridge counts what its cached flows have passed, and learns from that, when its revalidator
comes: every half second, and when something has changed. Here it comes only then.
"""

import contextlib
import itertools
import re
import socket
import struct
from collections.abc import Iterator

import pytest

from docs.platform.kit import BROADCAST, TUNSETCARRIER, Tap, frame, number_of, up
from ovs_vhost_plugin.lab.hosts.namespace import Namespace, scratch_directory
from ovs_vhost_plugin.lab.hosts.switch import PrivateSwitch
from ovs_vhost_plugin.lab.process import wait_until

NEVER = 3_600_000
_serial = itertools.count()


@pytest.fixture(scope="module")
def place() -> Iterator[Namespace]:
    with Namespace("platform") as made, made.entered():
        yield made


@pytest.fixture(scope="module")
def switch(place: Namespace) -> Iterator[PrivateSwitch]:
    never = [f"{setting}={NEVER}" for setting in ("max-revalidator", "max-idle")]
    with PrivateSwitch(place, scratch_directory(), other_config=never) as made:
        yield made


class Bridge:
    """A bridge with the ports `guest` and `peer`; MACs are new in each test."""

    def __init__(self, switch: PrivateSwitch, tag: int | None = None, **columns: str) -> None:
        number = next(_serial)
        self.switch = switch
        self.name = f"br{number}"
        self.mac = bytes([0x52, 0x54, 0, 1, 2, number])
        self.stranger = bytes([0x52, 0x54, 0, 1, 3, number])
        self.taps = {role: Tap(f"{role}{number}") for role in ("guest", "peer")}
        switch.add_bridge(self.name, **columns)
        for role, tap in self.taps.items():
            up(switch.namespace, tap.name)
            switch.add_port(self.name, tap.name, tag=tag if role == "guest" else None)
            wait_until(lambda name=tap.name: switch.ofport(name), "a port's number")

    def close(self) -> None:
        self.switch.vsctl("del-br", self.name)
        for tap in self.taps.values():
            tap.close()

    def number(self, role: str) -> int:
        return self.switch.ofport(self.taps[role].name)

    def packet_out(self, in_port: object, action: str, data: bytes) -> None:
        """Have the bridge take a frame; when this returns it has (a barrier follows)."""
        words = f"in_port={in_port} packet={data.hex()} actions={action}"
        self.switch.ofctl("packet-out", self.management, words)

    @property
    def management(self) -> str:
        return f"unix:{self.switch.directory}/{self.name}.mgmt"

    def place_of(self, mac: bytes | None = None) -> tuple[str, int] | None:
        """On which port, in which VLAN the bridge has a MAC."""
        found = self.switch.fdb(self.name).get((mac or self.mac).hex(":"))
        if found is None:
            return None
        ports = {str(self.number(role)): role for role in self.taps}
        return ports.get(found[0], found[0]), found[1]

    def send(self, role: str, data: bytes) -> None:
        """Send from a port, and return when it has come out of the other."""
        other = self.taps["peer" if role == "guest" else "guest"]
        other.frames()
        self.taps[role].send(data)
        wait_until(lambda: data in other.frames(), "the frame's way through the bridge")

    def counted(self) -> int:
        """How many packets the bridge has counted for its flow."""
        shown = self.switch.ofctl("dump-aggregate", self.management)
        return int(re.search(r"packet_count=(\d+)", shown)[1])

    def change(self) -> None:
        """Change something, at which the revalidator comes."""
        self.switch.ofctl("add-flow", self.management, "table=9,actions=drop")


@pytest.fixture
def bridge(switch):
    made = Bridge(switch)
    yield made
    made.close()


@contextlib.contextmanager
def bridge_of(switch, tag=None, **columns):
    made = Bridge(switch, tag, **columns)
    try:
        yield made
    finally:
        made.close()


# -- packet-outs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["NORMAL", "TABLE"])
def test_a_packet_out_teaches_at_once_and_moves_a_mac(bridge, action):
    data = frame(source=bridge.mac)
    bridge.packet_out(bridge.number("peer"), action, data)
    assert bridge.place_of() == ("peer", 0)
    bridge.packet_out(bridge.number("guest"), action, data)
    assert bridge.place_of() == ("guest", 0)


@pytest.mark.parametrize("in_port", ["CONTROLLER", "NONE"])
def test_a_packet_out_that_came_in_nowhere_teaches_nothing(bridge, in_port):
    bridge.packet_out(in_port, "NORMAL", frame(source=bridge.mac))
    assert bridge.place_of() is None
    assert frame(source=bridge.mac) in wait_until(bridge.taps["peer"].frames, "the frame")


@pytest.mark.parametrize("action", ["output:{peer}", "ALL"])
def test_a_packet_out_to_a_port_teaches_nothing_and_arrives(bridge, action):
    data = frame(source=bridge.mac)
    port = bridge.number("peer")
    bridge.packet_out(bridge.number("guest"), action.format(peer=port), data)
    assert data in wait_until(bridge.taps["peer"].frames, "the frame")
    assert bridge.place_of() is None


def test_a_packet_out_teaches_while_the_port_has_no_carrier(bridge):
    bridge.taps["guest"].point(TUNSETCARRIER, 0)
    bridge.switch.wait_until("Interface", bridge.taps["guest"].name, "link_state=down")
    bridge.packet_out(bridge.number("guest"), "TABLE", frame(source=bridge.mac))
    assert bridge.place_of() == ("guest", 0)
    assert frame(source=bridge.mac) in wait_until(bridge.taps["peer"].frames, "the frame")


def test_a_packet_out_of_an_access_port_is_learned_in_its_vlan_and_tagged_on_trunks(switch):
    with bridge_of(switch, tag=10) as bridge:
        data = frame(source=bridge.mac)
        bridge.packet_out(bridge.number("guest"), "TABLE", data)
        assert bridge.place_of() == ("guest", 10)
        tagged = data[:12] + b"\x81\x00\x00\x0a" + data[12:]
        assert tagged in wait_until(bridge.taps["peer"].frames, "the frame")


def test_a_packet_out_to_a_port_leaves_it_with_that_port_s_tag(switch):
    """As frames that were held are sent to where their guest is now."""
    with bridge_of(switch, tag=10) as bridge:
        data = frame(source=bridge.mac)
        tagged = data[:12] + b"\x81\x00\x00\x0a" + data[12:]
        bridge.packet_out("CONTROLLER", f"output:{bridge.number('peer')}", tagged)
        assert tagged in wait_until(bridge.taps["peer"].frames, "the frame")


def test_only_normal_goes_past_an_empty_pipeline(switch):
    with bridge_of(switch, fail_mode="secure") as bridge:
        data = frame(source=bridge.mac)
        bridge.packet_out(bridge.number("guest"), "TABLE", data)
        assert bridge.place_of() is None
        bridge.packet_out(bridge.number("guest"), "NORMAL", data)
        assert bridge.place_of() == ("guest", 0)
        assert bridge.taps["peer"].frames() == [data]


def test_a_table_with_learn_installs_its_flow_only_for_a_packet_out_to_table(switch):
    flow = (
        "table=0,actions=learn(table=1,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],"
        "output:NXM_OF_IN_PORT[]),FLOOD"
    )
    with bridge_of(switch) as bridge:
        switch.ofctl("add-flow", bridge.management, flow)
        data = frame(source=bridge.mac)

        def learned():
            return bridge.mac.hex(":") in switch.ofctl("dump-flows", bridge.management, "table=1")

        bridge.packet_out(bridge.number("guest"), "NORMAL", data)
        assert not learned()
        bridge.packet_out(bridge.number("guest"), "TABLE", data)
        assert learned()


def test_what_is_wrong_with_a_frame_or_its_in_port_is_answered_with_no_error(bridge):
    """So ours are checked before they are sent."""
    number = bridge.number("guest")
    assert answers(bridge, number, b"\xff" * 5) == [BARRIER_REPLY]
    assert answers(bridge, 999, frame(source=bridge.mac)) == [BARRIER_REPLY]
    assert answers(bridge, number, frame(), action=0x7FFF) == [ERROR, BARRIER_REPLY]


ERROR, ECHO_REPLY, BARRIER_REPLY = 1, 3, 19  # OpenFlow 1.0


def answers(bridge, in_port, data, *, action=0):
    """The kinds of what a bridge answers to a packet-out to NORMAL and a barrier behind it."""
    output = struct.pack("!HHHH", action, 8, 0xFFFA, 0)  # OFPP_NORMAL
    body = struct.pack("!IHH", 0xFFFFFFFF, in_port, len(output)) + output + data
    packet_out = struct.pack("!BBHI", 1, 13, 8 + len(body), 2) + body
    kinds = []
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(bridge.management.removeprefix("unix:"))
        hello, barrier = struct.pack("!BBHI", 1, 0, 8, 1), struct.pack("!BBHI", 1, 18, 8, 3)
        sock.sendall(hello + packet_out + barrier)
        while BARRIER_REPLY not in kinds:
            _, kind, length, _ = struct.unpack("!BBHI", exactly(sock, 8))
            exactly(sock, length - 8)
            kinds += [kind] if kind else []  # HELLO
    return kinds


@pytest.mark.parametrize("minor", range(6))
def test_a_bridge_speaks_every_openflow_and_not_what_protocols_leaves_out(bridge, minor):
    """HELLO with the bitmap of 1.3.1; the answer's version is the one that both speak."""
    path = f"{bridge.switch.directory}/{bridge.name}.mgmt"
    assert version_agreed(path, minor) == 1 + minor
    other = f"OpenFlow1{(minor + 1) % 6}"
    bridge.switch.vsctl("set", "Bridge", bridge.name, f"protocols={other}")
    assert version_agreed(path, minor) is None


def version_agreed(path, minor):
    """The wire version of the bridge's answer to an ECHO, None if it hangs up."""
    version = 1 + minor
    hello = struct.pack("!BBHIHHI", version, 0, 16, 1, 1, 8, 1 << version)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(path)
        sock.sendall(hello + struct.pack("!BBHI", version, 2, 8, 2))
        with contextlib.suppress(ConnectionResetError, EOFError):
            while True:
                got, kind, length, _ = struct.unpack("!BBHI", exactly(sock, 8))
                exactly(sock, length - 8)
                if kind == ECHO_REPLY:
                    return got
    return None


def exactly(sock, length):
    data = b""
    while len(data) < length:
        piece = sock.recv(length - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


# -- frames ---------------------------------------------------------------------------------------


def warm(bridge):
    """A frame of the guest's whose like the bridge has in its cache of flows."""
    data = frame(1, source=bridge.mac)
    bridge.send("guest", data)
    wait_until(lambda: bridge.place_of() == ("guest", 0), "the MAC")
    bridge.send("guest", data)
    return data


def test_a_frame_that_meets_a_warm_flow_teaches_when_the_revalidator_comes(bridge):
    data = warm(bridge)

    def passes_unlearned():
        """Not so where the revalidator comes by in the very moment; then once more."""
        bridge.packet_out(bridge.number("peer"), "NORMAL", data)
        bridge.send("guest", data)
        return bridge.place_of() == ("peer", 0)

    wait_until(passes_unlearned, "a frame that has passed and taught nothing")
    bridge.change()
    wait_until(lambda: bridge.place_of() == ("guest", 0), "the revalidator")


def test_a_traced_frame_teaches_at_once_says_so_and_goes_nowhere(bridge):
    data = frame(source=bridge.mac)
    question = ("ofproto/trace", bridge.name, f"in_port={bridge.number('guest')}", data.hex())
    says = f"learned that {bridge.mac.hex(':')} is on port"
    bridge.packet_out(bridge.number("peer"), "NORMAL", data)
    assert says in bridge.switch.appctl("ovs-vswitchd", *question)
    assert bridge.place_of() == ("guest", 0)
    assert says not in bridge.switch.appctl("ovs-vswitchd", *question), "nothing has changed"
    seen, other = [], frame(2, source=bridge.mac)
    bridge.taps["guest"].send(other)
    wait_until(lambda: seen.extend(bridge.taps["peer"].frames()) or other in seen, "a frame")
    assert data not in seen


def test_the_last_frames_of_a_guest_that_has_left_move_its_mac_back(bridge):
    """They are counted after its new place was learned, at the latest because it was."""
    data = warm(bridge)

    def moves_back():
        """Not so where the revalidator counts the frame in the very moment; then once more."""
        bridge.packet_out(bridge.number("guest"), "NORMAL", data)
        before = bridge.counted()
        bridge.send("guest", data)
        bridge.packet_out(bridge.number("peer"), "NORMAL", data)
        wait_until(lambda: bridge.counted() > before, "the count")
        return bridge.place_of() == ("guest", 0)

    wait_until(moves_back, "a MAC that went back")


def test_a_packet_out_from_a_new_mac_has_the_bridge_count(bridge):
    """So what the guest sent before is behind when its new place is learned."""
    data = warm(bridge)

    def stays_uncounted():
        before = bridge.counted()
        bridge.send("guest", data)
        return bridge.counted() == before

    wait_until(stays_uncounted, "a frame that is not counted")
    before = bridge.counted()
    stranger = frame(source=bridge.stranger, target=bridge.mac)
    bridge.packet_out(bridge.number("guest"), "NORMAL", stranger)
    wait_until(lambda: bridge.counted() > before, "the count")


def test_a_frame_to_a_mac_on_its_own_port_goes_nowhere(bridge):
    bridge.send("guest", frame(1, source=bridge.mac))
    wait_until(lambda: bridge.place_of() == ("guest", 0), "the MAC")
    bridge.taps["guest"].frames()
    returning = frame(9, source=bridge.stranger, target=bridge.mac)
    bridge.packet_out(bridge.number("guest"), "NORMAL", returning)
    bridge.send("guest", frame(2, source=bridge.mac))
    seen = [number_of(data) for tap in bridge.taps.values() for data in tap.frames()]
    assert 9 not in seen


def test_a_port_without_carrier_keeps_its_macs_and_one_that_is_deleted_does_not(bridge):
    """So the source of a migration goes on drawing frames until somebody says otherwise."""
    bridge.send("guest", frame(source=bridge.mac))
    wait_until(lambda: bridge.place_of() == ("guest", 0), "the MAC")
    name = bridge.taps["guest"].name
    bridge.taps["guest"].point(TUNSETCARRIER, 0)
    bridge.switch.wait_until("Interface", name, "link_state=down")
    assert bridge.place_of() == ("guest", 0)
    bridge.switch.vsctl("del-port", name)
    assert bridge.switch.fdb(bridge.name).get(bridge.mac.hex(":")) is None
    bridge.switch.add_port(bridge.name, name)


def test_a_slb_bond_believes_gratuitous_arp_and_no_rarp_of_a_mac_that_is_on_a_port(switch):
    """It takes the RARP for the port's own, come back by another member."""
    with bridge_of(switch) as bridge:
        members = [Tap(f"m{bridge.mac[5]}{letter}") for letter in "ab"]
        for tap in members:
            up(switch.namespace, tap.name)
        names = [tap.name for tap in members]
        switch.vsctl("add-bond", bridge.name, "bond", *names, "bond_mode=balance-slb")
        for name in names:
            wait_until(lambda name=name: switch.ofport(name), "a member's number")
        wait_until(
            lambda: switch.appctl("ovs-vswitchd", "bond/show", "bond").count(": enabled") == 2,
            "both members",
        )
        bridge.send("guest", frame(source=bridge.mac))
        wait_until(lambda: bridge.place_of() == ("guest", 0), "the MAC")
        active = active_member(switch, members)
        active.send(rarp(bridge.mac))
        active.send(frame(source=bridge.stranger))
        wait_until(lambda: bridge.place_of(bridge.stranger), "what was sent behind it")
        assert bridge.place_of() == ("guest", 0)
        active.send(gratuitous_arp(bridge.mac))
        wait_until(lambda: bridge.place_of() != ("guest", 0), "the MAC's new place")
        for tap in members:
            tap.close()


def active_member(switch, members):
    shown = switch.appctl("ovs-vswitchd", "bond/show", "bond")
    name = re.search(r"^active member mac:.*\((.*)\)$", shown, re.MULTILINE)[1]
    return next(tap for tap in members if tap.name == name)


def rarp(mac):
    """The frame that QEMU announces a MAC with."""
    head = BROADCAST + mac + struct.pack("!HHHBBH", 0x8035, 1, 0x0800, 6, 4, 3)
    return (head + mac + bytes(4) + mac + bytes(4)).ljust(60, b"\0")


def gratuitous_arp(mac):
    """A request of a host for its own address."""
    address = socket.inet_aton("192.0.2.5")
    head = BROADCAST + mac + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1)
    return (head + mac + address + bytes(6) + address).ljust(60, b"\0")
