# SPDX-License-Identifier: Apache-2.0
"""What makes the daemon announce a guest, and what the bridge makes of it.

The port's worker is a puppet: the test tells as its front-end what it is to report.
"""

import json
from typing import Any

import pytest
from support.control.puppet import GUEST_ANNOUNCE, MAC, PORT, Peer, wait_log
from support.control.puppet import announcements as log

from ovs_vhost_plugin.announce.frames.announcements import gratuitous_arp, rarp
from ovs_vhost_plugin.ipc.reports import GuestStations, Started
from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.lab.process import LabError, wait_until
from ovs_vhost_plugin.net.ethernet import tagged
from ovs_vhost_plugin.net.station import Station

pytestmark = pytest.mark.integration

IP = bytes([192, 0, 2, 1])
ATTACHED = f"external_ids:attached-mac={MAC.hex(':')}"
GIVEN = f"external_ids:vhost-user-addresses={MAC.hex(':')} 192.0.2.1"


def place(host: Any, mac: bytes = MAC, bridge: str = BRIDGE) -> tuple[str, int] | None:
    return host.switch.fdb(bridge).get(mac.hex(":"))


def test_a_guest_that_moved_in_is_announced_whole_and_in_qemus_rounds(host, add) -> None:
    peer = Peer(host)
    add(ATTACHED, GIVEN).move_in()

    # Rounds that meet a bridge which still owes an answer are answered by one announcement.
    wait_until(lambda: requested(host) >= 5, "five rounds")
    entries = log(host)

    assert {(e["trigger"], e["outcome"], e["frames"]) for e in entries} == {
        ("moved-in", "learned", 2)
    }
    planned = [0, 0.05, 0.2, 0.45, 0.8]
    for number, entry in enumerate(entries):
        at = entry["received_at"] - entries[0]["received_at"]
        assert at >= planned[sum(e["requests"] for e in entries[:number])] - 1e-6, entries
    sent = sum(entry["attempts"] for entry in entries)
    assert requested(host) == 5 and len(entries) > 1
    assert peer.seen() == [rarp(MAC), gratuitous_arp(MAC, IP)] * sent
    assert place(host) == (str(host.wait_ofport(PORT)), 0)
    announced = host.wait_status_of(PORT, lambda status: "announced" in status)["announced"]
    assert announced.startswith(f"{MAC.hex(':')} learned ") and announced.endswith("ms moved-in")
    # Real time was taken: a confirmation takes longer than none.
    assert all(entry["milliseconds"] > 0 for entry in entries)


def test_connected_is_not_running(host, add) -> None:
    front_end = add(ATTACHED)
    front_end.report(Started(700))
    front_end.status("connected", features=GUEST_ANNOUNCE | 1)
    host.wait_status_of(PORT, lambda status: status.get("features", "").endswith("200001"))
    assert log(host) == []
    front_end.status("running")
    assert wait_log(host, 1)[0]["trigger"] == "moved-in"


def test_a_guest_that_boots_is_left_to_itself(host, add) -> None:
    front_end = add(ATTACHED)
    front_end.move_in(base=0)
    front_end.status("connected")
    host.wait_status(PORT, "connected")
    assert log(host) == []
    # paused and resumed, as by a migration that was cancelled
    front_end.move_in(base=5)
    assert wait_log(host, 1)[0]["trigger"] == "resumed"


def test_what_the_guest_was_seen_to_use_is_announced_too(host, add) -> None:
    peer = Peer(host)
    nested = bytes.fromhex("525400123499")
    front_end = add(GIVEN, "external_ids:vhost-user-announce=rounds=1")
    front_end.report(GuestStations((Station(nested, 30, (IP,)),)))
    front_end.move_in()
    wait_log(host, 2)
    assert peer.seen() == [rarp(MAC), gratuitous_arp(MAC, IP)]
    frames = [rarp(nested), gratuitous_arp(nested, IP)]
    assert peer.seen(nested) == [tagged(frame, 30) for frame in frames]


def test_send_rarp_announces_all_that_is_known_once_a_message(host, add) -> None:
    peer = Peer(host)
    front_end = add(GIVEN)
    mac = bytes.fromhex("525400123457")
    for _ in range(2):
        front_end.send_rarp(mac)
        wait_log(host, 2)
    entries = wait_log(host, 4)
    assert {entry["trigger"] for entry in entries} == {"send-rarp"}
    assert len(peer.seen()) == 4 and len(peer.seen(mac)) == 2


def test_after_send_rarp_the_front_end_makes_the_rounds(host, add) -> None:
    front_end = add(ATTACHED)
    front_end.send_rarp(MAC)
    front_end.move_in()
    requests = wait_until(lambda: (n := requested(host)) >= 2 and n, "both are answered")
    assert requests == 2
    # Another guest's rounds are over: this one's would be too.
    add(ATTACHED.replace("34:56", "34:58"), port="puppet1").move_in()
    wait_until(lambda: requested(host, "puppet1") >= 5, "five rounds")
    assert requested(host) == 2


def requested(host: Any, port: str = PORT) -> int:
    """How many requests the announcements of a port that have ended have answered."""
    return sum(entry["requests"] for entry in log(host, port))


def test_a_silent_guest_is_announced_when_its_time_is_up(host, add) -> None:
    policy = "external_ids:vhost-user-announce=rounds=1 guest-silent=100"
    add(ATTACHED, policy).move_in()
    first, second = wait_log(host, 2)
    assert (first["trigger"], second["trigger"]) == ("moved-in", "guest-silent")
    assert second["received_at"] - first["received_at"] >= 0.1


def test_a_guest_that_speaks_is_not(host, add) -> None:
    policy = "external_ids:vhost-user-announce=rounds=1 guest-silent=100"
    front_end = add(ATTACHED, policy)
    front_end.tell(counters={"tx_packets": 1})
    front_end.move_in()
    wait_log(host, 1)
    other = add(ATTACHED.replace("34:56", "34:58"), policy, port="puppet1")
    other.move_in()
    # the other's time is up after this one's
    assert wait_log(host, 2, "puppet1")[1]["trigger"] == "guest-silent"
    assert len(log(host)) == 1


def test_a_guest_that_stops_is_announced_no_more(host, add) -> None:
    front_end = add(
        ATTACHED, "external_ids:vhost-user-announce=rounds=100 initial=60 step=1 max=60"
    )
    front_end.move_in()
    wait_log(host, 2)
    front_end.status("connected")
    host.wait_status(PORT, "connected")
    count = len(log(host))
    host.appctl("vhost/announce", PORT)
    with pytest.raises(LabError):
        wait_until(lambda: len(log(host)) > count + 1, "another round", seconds=0.3)


def test_off_leaves_only_what_is_asked_for_by_hand(host, add) -> None:
    front_end = add(ATTACHED, "external_ids:vhost-user-announce=off")
    front_end.send_rarp(MAC)
    front_end.move_in()
    assert "learned on br0" in host.appctl("vhost/announce", PORT)
    assert [entry["trigger"] for entry in log(host)] == ["manual"]


@pytest.mark.parametrize(
    ("column", "vlan"), [("tag=10", 10), ("tag=10 vlan_mode=native-tagged trunks=20", 10)]
)
def test_a_port_that_gets_another_vlan_is_announced_there(host, add, column, vlan) -> None:
    front_end = add(ATTACHED, "external_ids:vhost-user-announce=rounds=1")
    front_end.move_in()
    wait_log(host, 1)
    host.switch.vsctl("set", "Port", PORT, *column.split())
    entries = wait_log(host, 2)[1:]
    assert {entry["trigger"] for entry in entries} == {"port-moved"}
    assert {entry["outcome"] for entry in entries} == {"learned"}
    table = host.switch.appctl("ovs-vswitchd", "fdb/show", BRIDGE).splitlines()
    learned = {int(row.split()[1]) for row in table if MAC.hex(":") in row}
    assert vlan in learned


def test_a_port_that_goes_to_another_bridge_is_announced_there(host, add) -> None:
    """With its rows kept, and to a bridge where another port has its old number."""
    add(ATTACHED, "external_ids:vhost-user-announce=rounds=1").move_in()
    wait_log(host, 1)
    host.switch.add_bridge("br1")
    peer = Peer(host, "br1")
    assert host.switch.ofport("peer-br1") == host.wait_ofport(PORT)
    uuid = host.switch.vsctl("get", "Port", PORT, "_uuid")
    host.switch.vsctl(
        *("remove", "Bridge", BRIDGE, "ports", uuid),
        *("--", "add", "Bridge", "br1", "ports", uuid),
    )
    entry = wait_log(host, 2)[1]
    assert (entry["trigger"], entry["outcome"], entry["bridge"]) == ("port-moved", "learned", "br1")
    assert place(host, bridge="br1") == (str(entry["ofport"]), 0)
    assert entry["ofport"] != host.switch.ofport("peer-br1")
    assert peer.seen() == [rarp(MAC)]


def test_where_the_bridge_cannot_be_reached_the_tap_must_do(host, add) -> None:
    peer = Peer(host)
    (host.directory / f"{BRIDGE}.mgmt").unlink()
    add(ATTACHED, "external_ids:vhost-user-announce=rounds=1").move_in()
    (entry,) = wait_log(host, 1)
    assert (entry["outcome"], entry["confirmed_by"]) == ("learned", "fdb")
    assert entry["reason"] == "injected, OpenFlow: No such file or directory"
    assert place(host) == (str(host.wait_ofport(PORT)), 0)
    assert rarp(MAC) in peer.seen()


def test_macs_of_others_are_refused(host, add) -> None:
    add(ATTACHED, "external_ids:vhost-user-announce=off").move_in()
    add(port="puppet1").move_in(base=0)
    own = host.switch.interface(BRIDGE, "mac_in_use")
    assert "refused: mac-foreign: the bridge's own" in host.appctl("vhost/announce", "puppet1", own)
    refused = host.appctl("vhost/announce", "puppet1", MAC.hex(":"))
    assert f"refused: mac-foreign: {PORT}'s" in refused
    assert "refused: mac-multicast" in host.appctl("vhost/announce", PORT, "01:00:5e:00:00:01")
    # Given to both, as for a migration from port to port or a shared address, it is both's.
    host.switch.vsctl("set", "Interface", "puppet1", ATTACHED)
    wait_until(
        lambda: "learned on br0" in host.appctl("vhost/announce", "puppet1", MAC.hex(":")),
        "the daemon has seen the row",
    )


def test_a_wrong_policy_is_named_and_the_port_works_by_the_default(host, add) -> None:
    front_end = add(ATTACHED, "external_ids:vhost-user-announce=frames=smoke")
    front_end.move_in()
    wait_log(host, 1)
    error = host.status(PORT)["error"]
    assert error.startswith("announce-frames-unknown: external_ids:vhost-user-announce: 'smoke'")
    shown = json.loads(host.appctl("vhost/show", "-f", "json"))
    assert shown["wrong_rows"] == {PORT: error}
    assert shown["faults"] == {"announce-frames-unknown": 1}
    host.switch.vsctl("set", "Interface", PORT, "external_ids:vhost-user-announce=frames=rarp")
    host.wait_status_of(PORT, lambda status: "error" not in status)


def test_a_row_that_is_wrong_for_a_while_does_not_make_the_guest_unknown(host, add) -> None:
    add(ATTACHED, "external_ids:vhost-user-announce=rounds=1").move_in()
    wait_log(host, 1)
    host.switch.vsctl("set", "Interface", PORT, "external_ids:vhost-user-queues=none")
    host.wait_status_of(PORT, lambda status: "error" in status)
    host.switch.vsctl("remove", "Interface", PORT, "external_ids", "vhost-user-queues")
    host.wait_status_of(PORT, lambda status: "error" not in status)
    host.switch.vsctl("set", "Port", PORT, "tag=10")
    assert wait_log(host, 2)[1]["trigger"] == "port-moved"
