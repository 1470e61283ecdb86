# SPDX-License-Identifier: Apache-2.0
"""What a front-end or a taken-over worker says of addresses gives its port no power over others.

Rows, switch and daemon are real. The worker is a puppet that reports what the attacker likes, and
the victim is another port of the bridge.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.control.control_host import ControlHost
from support.control.puppet import LOG_ALL, FrontEnd, Peer, announcements

from ovs_vhost_plugin.announce.frames.announcements import gratuitous_arp, rarp
from ovs_vhost_plugin.forward.allowance import FRAMES
from ovs_vhost_plugin.ipc.commands import Release
from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system

EVIL, OWNER = "puppet0", "puppet1"
VICTIM = bytes.fromhex("525400000077")
GATEWAY = bytes.fromhex("5254000000fe")
GUEST = bytes.fromhex("525400000001")
"""The attacker's own MAC, which its row names, and which has gone where the victim is."""
IP = bytes([192, 0, 2, 254])
IPV4, PPPOE = b"\x08\x00", b"\x88\x64"
ONE_ROUND = "external_ids:vhost-user-announce=rounds=1"
NORMAL = f"{ONE_ROUND} output=normal"


def attached(mac: bytes) -> str:
    return f"external_ids:attached-mac={mac.hex(':')}"


def forged(to: bytes, source: bytes = GATEWAY, kind: bytes = IPV4) -> bytes:
    return (to + source + kind).ljust(60, b"\0")


def arp_to(to: bytes) -> bytes:
    """The gateway's address is another's: what a victim believes at once."""
    return to + gratuitous_arp(GATEWAY, IP)[6:]


@pytest.fixture
def puppets(require: Callable[[object, str], None]) -> Iterator[ControlHost]:
    lacking = packages.missing(packages.SWITCH)
    require(lacking is None, lacking or "")
    # Not tmp_path: a socket's path has at most 107 bytes.
    temporary = TemporaryDirectory(prefix="ovs-vhost-")
    with temporary as top, ControlHost("claims", Path(top) / "claims") as host:
        yield host
        host.end_workers()


@pytest.fixture
def add(puppets: ControlHost) -> Iterator[Callable[..., FrontEnd]]:
    with ExitStack() as closing:

        def make(port: str, *settings: str) -> FrontEnd:
            path = puppets.add_server_port(port, *settings)
            puppets.wait_ofport(port)
            puppets.wait_status(port, "listening")
            front_end = FrontEnd(puppets, port, path)
            closing.callback(front_end.close)
            return front_end

        yield make


def shut_off(host: ControlHost, port: str) -> None:
    """Let the bridge take nothing from a port."""
    flow = f"in_port={host.wait_ofport(port)},priority=100,actions=drop"
    host.switch.ofctl("add-flow", f"unix:{host.directory}/{BRIDGE}.mgmt", flow)


def place(host: ControlHost, mac: bytes) -> str | None:
    found = host.switch.fdb(BRIDGE).get(mac.hex(":"))
    return found and found[0]


def speak(host: ControlHost, peer: Peer, *macs: bytes) -> None:
    """Have the bridge learn these where the peer is."""
    there = str(host.switch.ofport(f"peer-{BRIDGE}"))
    for mac in macs:
        peer.send(rarp(mac))
        wait_until(lambda mac=mac: place(host, mac) == there, "it is learned")


def counters(host: ControlHost, part: str) -> dict[str, int]:
    shown: dict[str, int] = json.loads(host.appctl("vhost/show", "-f", "json"))[part]
    return shown


def reaches(peer: Peer, front_end: FrontEnd, *frames: bytes) -> list[bytes]:
    """Hand frames over at the next order, then one to the guest itself: what came before that."""
    last = forged(GUEST, b"\x52\0\0\0\0\x01")
    order = front_end.order()
    while order is not None and not isinstance(order, Release):
        order = front_end.order()
    assert order is not None, "the guest itself has gone there"
    front_end.hand_over(order, [*frames, last], left=False)
    end = GUEST, last[12:]
    wait_until(lambda: any((f[:6], f[12:]) == end for f in peer.received()), "the last frame")
    return peer.received()


@pytest.mark.parametrize("claim", ["send-rarp", "learned", "hold only"])
def test_a_port_that_is_shut_off_cannot_hand_over_frames_for_a_victim(puppets, add, claim) -> None:
    evil = add(EVIL, attached(GUEST) if claim == "hold only" else f"external_ids:{GIVEN}")
    shut_off(puppets, EVIL)
    peer = Peer(puppets)
    speak(puppets, peer, VICTIM, GATEWAY)
    if claim == "send-rarp":
        evil.send_rarp(VICTIM)
    elif claim == "learned":
        evil.learned(VICTIM)
    evil.status("running", features=LOG_ALL)
    puppets.wait_status(EVIL, "running")
    evil.hold(VICTIM, GUEST)
    speak(puppets, peer, GUEST)
    seen = reaches(peer, evil, arp_to(VICTIM), forged(VICTIM))
    assert [frame for frame in seen if frame[:6] == VICTIM] == []


def test_what_the_bridge_learns_during_a_hold_is_not_the_guests(puppets, add) -> None:
    """The victim's address is taken for a moment, while the port still may send."""
    evil = add(EVIL, f"external_ids:{GIVEN}")
    peer = Peer(puppets)
    evil.status("running", features=LOG_ALL)
    holds = counters(puppets, "forward").get("holds", 0)
    evil.hold(VICTIM, GUEST)
    # What the bridge had here before the daemon knew of the hold would be the guest's.
    wait_until(lambda: counters(puppets, "forward").get("holds", 0) > holds, "the hold")
    evil.transmit(rarp(VICTIM), rarp(GUEST))
    here = str(puppets.wait_ofport(EVIL))
    wait_until(lambda: place(puppets, GUEST) == here == place(puppets, VICTIM), "it is taken")
    # The daemon reads the table every few milliseconds, and has the bridge count: it has looked.
    wait_until(lambda: here in nobodies(puppets), "the daemon has read it")
    shut_off(puppets, EVIL)
    speak(puppets, peer, VICTIM, GUEST)
    seen = reaches(peer, evil, forged(VICTIM))
    assert [frame for frame in seen if frame[:6] == VICTIM] == []


def nobodies(host: ControlHost) -> set[str]:
    """The ports of the addresses that the daemon makes up to have the bridge count."""
    ours = {mac.hex(":") for mac in (GUEST, VICTIM, GATEWAY)}
    return {port for mac, (port, _) in host.switch.fdb(BRIDGE).items() if mac not in ours}


GIVEN = f"vhost-user-addresses={GUEST.hex(':')}"


@pytest.mark.parametrize("kind", [IPV4, PPPOE], ids=["ip", "another protocol"])
def test_a_forwarded_frame_shows_the_network_no_sender_that_is_there(puppets, add, kind) -> None:
    """Or a fabric behind the peer would send the victim's frames to this host from then on."""
    evil = add(EVIL, attached(GUEST))
    shut_off(puppets, EVIL)
    peer = Peer(puppets)
    evil.status("running", features=LOG_ALL)
    evil.hold(GUEST)
    speak(puppets, peer, VICTIM, GUEST)
    victims, groups = forged(GUEST, VICTIM, kind), forged(GUEST, b"\xff" * 6, kind)
    seen = reaches(peer, evil, victims, groups, forged(GUEST, GUEST, kind))
    assert {frame[6:12].hex() for frame in seen if frame[12:14] == kind} == {
        puppets.switch.interface(BRIDGE, "mac_in_use").replace(":", "")
    }
    assert counters(puppets, "forward")["frames-from-group"] == 1
    assert counters(puppets, "forward")["frames-from-guest"] == 1


def test_a_worker_that_hands_over_without_end_is_cut_off(puppets, add) -> None:
    evil = add(EVIL, attached(GUEST))
    peer = Peer(puppets)
    evil.status("running", features=LOG_ALL)
    evil.hold(GUEST)
    speak(puppets, peer, GUEST)
    batch, handed = [forged(GUEST)] * 256, 0
    while not counters(puppets, "forward").get("hold-over-limit"):
        while isinstance(order := evil.order(seconds=0.2), Release):
            evil.hand_over(order, batch)
            handed += len(batch)
            assert handed <= 2 * FRAMES
    assert "hold-over-limit" in puppets.appctl("vhost/hold-log", EVIL)
    evil.hold(GUEST)  # the same again
    evil.hold(GUEST, active=False)
    evil.status("running")
    assert counters(puppets, "forward")["holds"] == 1


@pytest.mark.parametrize("named", [True, False], ids=["a row names it", "no row"])
def test_a_victims_mac_in_send_rarp_is_a_claim_and_owns_nothing(puppets, add, named) -> None:
    owner = add(OWNER, *([attached(VICTIM)] if named else []), ONE_ROUND)
    owner.move_in()
    owner.send_rarp(VICTIM)
    there = str(puppets.wait_ofport(OWNER))
    wait_until(lambda: place(puppets, VICTIM) == there, "the owner is learned")
    evil = add(EVIL, ONE_ROUND)
    evil.move_in()
    evil.send_rarp(VICTIM)
    (entry,) = wait_until(lambda: announcements(puppets, EVIL), "what came of it")
    if named:
        assert entry["reason"] == f"mac-foreign: {OWNER}'s"
        assert place(puppets, VICTIM) == there
    before = len(announcements(puppets, OWNER))
    owner.send_rarp(VICTIM)
    wait_until(lambda: len(announcements(puppets, OWNER)) > before, "the owner's")
    assert {one["outcome"] for one in announcements(puppets, OWNER)} == {"learned"}
    assert place(puppets, VICTIM) == there


@pytest.mark.parametrize("claim", ["send-rarp", "learned"])
@pytest.mark.parametrize("policy", [ONE_ROUND, NORMAL], ids=["table", "normal"])
def test_with_attached_mac_a_peer_gets_no_other_announced(puppets, add, claim, policy) -> None:
    evil = add(EVIL, attached(GUEST), policy)
    claims_the_gateways(puppets, evil, claim)
    reasons = {one["mac"]: one["reason"] for one in announcements(puppets, EVIL)}
    assert reasons[GATEWAY.hex(":")].startswith("mac-not-given: ")
    assert reasons[GUEST.hex(":")] == ""
    assert counters(puppets, "announce")["mac-not-given"] == 5
    told = [one for one in announcements(puppets, EVIL) if one["outcome"] == "refused"]
    assert len(told) == 1, "it is told once, and counted each time"
    assert GUEST.hex(":") in puppets.status(EVIL)["announced"]
    # what the administrator says is another matter
    assert "learned on br0" in puppets.appctl("vhost/announce", EVIL, GATEWAY.hex(":"))


def test_past_the_flow_table_no_claim_is_announced(puppets, add) -> None:
    """Without a row that names a MAC, and with a flow table that lets nothing through."""
    evil = add(EVIL, NORMAL)
    shut_off(puppets, EVIL)
    claims_the_gateways(puppets, evil, "send-rarp")
    (entry,) = announcements(puppets, EVIL)
    assert (entry["outcome"], entry["frames"]) == ("refused", 0)
    assert entry["reason"].startswith("mac-not-given: ")
    assert "refused: mac-not-given" in puppets.appctl("vhost/announce", EVIL)
    assert "learned on br0" in puppets.appctl("vhost/announce", EVIL, VICTIM.hex(":"))


def claims_the_gateways(host: ControlHost, evil: FrontEnd, how: str) -> None:
    """Have the gateway's MAC claimed by `evil`, five times; it has to stay where it is."""
    peer = Peer(host)
    speak(host, peer, GATEWAY)
    there = place(host, GATEWAY)
    for _ in range(5):
        evil.status("connected")
        if how == "learned":
            evil.learned(GATEWAY)
            evil.move_in()
        else:
            evil.send_rarp(GATEWAY)
    wait_until(lambda: counters(host, "announce").get("requests", 0) >= 5, "all was asked for")
    host.wait_status(EVIL, "running" if how == "learned" else "connected")
    wait_until(lambda: announcements(host, EVIL), "what came of it")
    assert place(host, GATEWAY) == there
    assert [frame for frame in peer.received() if frame[6:12] == GATEWAY] == []
