# SPDX-License-Identifier: Apache-2.0
"""Frames that follow a guest over a real bridge: where they come out, and what is learned."""

import os
import time
from dataclasses import replace

import ovs.poller
import pytest
from support.control.announce_bridge import Tap, bridge, private_switch

from ovs_vhost_plugin.announce.frames.announcements import rarp
from ovs_vhost_plugin.forward.rewrite import Rows, Unfit
from ovs_vhost_plugin.forward.tracker import MacTracker
from ovs_vhost_plugin.lab.process import PATIENCE, wait_until
from ovs_vhost_plugin.net.ethernet import C_TAG, S_TAG
from ovs_vhost_plugin.net.station import StationKey
from ovs_vhost_plugin.net.vlan import PortVlan, VlanMode, ingress_frame
from ovs_vhost_plugin.openflow.connection import BridgeConnection
from ovs_vhost_plugin.openflow.wire import Output
from ovs_vhost_plugin.vswitchd.unixctl import Answer, Question, Switchd

pytestmark = pytest.mark.integration

GUEST = bytes.fromhex("525400123456")
CLIENT = bytes.fromhex("0200000000aa")
ROWS = Rows(own=CLIENT)
"""In whose name frames go on; here that is the client's."""


@pytest.fixture(scope="module")
def switch(tmp_path_factory, require):
    with private_switch(tmp_path_factory.mktemp("ovs"), require) as switch:
        yield switch


def frame(number):
    return GUEST + CLIENT + b"\x88\xb5" + number.to_bytes(46, "big")


def tagged(plain, tags):
    """A frame with these tags, the outer one first."""
    return plain[:12] + b"".join(tpid + vlan.to_bytes(2, "big") for tpid, vlan in tags) + plain[12:]


def turn(service, until, seconds=PATIENCE):
    """Turn a loop as the daemon does until `until` says something."""
    end = time.monotonic() + seconds
    for _ in range(300):
        now = time.monotonic()
        if (found := until(service.run(now))) is not None:
            return found
        assert now < end
        poller = ovs.poller.Poller()
        service.wait(poller)
        poller.timer_wait_until(end * 1e3)
        poller.block()
    raise AssertionError("a busy loop")


def deliver(path, batch):
    """Send a batch; what became of it."""
    connection = BridgeConnection(path)
    try:
        turn(connection, lambda _: connection.idle or None)
        connection.packets_to(batch, time.monotonic())
        (done,) = turn(connection, lambda done: done or None)
        return done
    finally:
        connection.close()


def table_of(switch, name):
    reader = Switchd(str(switch.directory))
    try:
        answers = []
        question = Question("fdb/show", (name,))
        reader.ask(question, lambda answer, _: answers.append(answer), time.monotonic())
        turn(reader, lambda came: came or None)
        (answer,) = answers
        assert isinstance(answer, Answer)
        return answer.text
    finally:
        reader.close()


def tap_frames(tap, count):
    """The first `count` of the frames of ours that come out of a tap."""
    got = []
    wait_until(
        lambda: got.extend(f for f in tap.frames() if f[6:12] == CLIENT) or len(got) >= count,
        f"{count} frames",
    )
    return got


@pytest.mark.parametrize("minor", range(6))
def test_a_batch_reaches_exactly_its_port_in_order_and_teaches_nothing(switch, minor):
    with bridge(switch, protocols=f"OpenFlow1{minor}") as br:
        br.taps["guest"].frames()
        frames = [frame(n) for n in range(60)]
        batch = deliver(br.location().mgmt_path, [(f, br.ofport("peer")) for f in frames])
        assert (batch.sent, batch.refused, batch.lost) == (60, (), "")
        assert tap_frames(br.taps["peer"], 60) == frames
        assert br.taps["guest"].frames() == []
        assert br.place_of(CLIENT) is None and br.place_of(GUEST) is None


def test_a_client_that_is_known_elsewhere_stays_there(switch):
    with bridge(switch) as br:
        br.taps["guest"].send(rarp(CLIENT))
        here = (str(br.ofport("guest")), 0)
        wait_until(lambda: br.place_of(CLIENT) == here, "the client is learned")
        assert tap_frames(br.taps["peer"], 1) == [rarp(CLIENT)]
        deliver(br.location().mgmt_path, [(frame(1), br.ofport("peer"))])
        assert tap_frames(br.taps["peer"], 1) == [frame(1)]
        assert br.place_of(CLIENT) == here


def test_what_the_switch_refuses_is_counted(switch):
    with bridge(switch) as br:
        batch = deliver(br.location().mgmt_path, [(frame(1), 0xFE00), (frame(2), 0xFE00)])
        # OVS sends to a port that does not exist without a word; it must not come out elsewhere.
        assert batch.sent == 2
        assert [f for f in br.taps["peer"].frames() if f[6:12] == CLIENT] == []


def columns_of(port):
    """The columns of a Port row that says this."""
    if port == TRUNK:
        return []
    tpid = "802.1q" if port.tpid == C_TAG else "802.1ad"
    cvlans = [f"cvlans={','.join(map(str, sorted(port.cvlans)))}"] if port.cvlans else []
    mode = [f"vlan_mode={port.mode}", f"tag={port.tag}"]
    return [*mode, f"other_config:qinq-ethtype={tpid}", *cvlans]


def in_vlan_10(mode, *cvlans, tpid=S_TAG):
    return PortVlan(VlanMode(mode), 10, cvlans=frozenset(cvlans), tpid=tpid)


TRUNK = PortVlan()
ACCESS, NATIVE, TAGGED, TUNNEL = map(
    in_vlan_10, ("access", "native-untagged", "native-tagged", "dot1q-tunnel")
)
SERVICE, CUSTOMER = (S_TAG, 10), (C_TAG, 20)


@pytest.mark.parametrize(
    ("origin", "tags", "peer", "expected"),
    [
        (ACCESS, [], TRUNK, [(C_TAG, 10)]),
        (ACCESS, [], ACCESS, []),
        (ACCESS, [], NATIVE, []),
        (ACCESS, [], TAGGED, [(C_TAG, 10)]),
        (ACCESS, [], TUNNEL, []),
        (TRUNK, [SERVICE], TRUNK, [SERVICE]),
        (TRUNK, [(C_TAG, 10)], TUNNEL, []),
        (TUNNEL, [], TRUNK, [SERVICE]),
        (TUNNEL, [CUSTOMER], TRUNK, [SERVICE, CUSTOMER]),
        (TUNNEL, [CUSTOMER], TAGGED, [SERVICE, CUSTOMER]),
        (TUNNEL, [CUSTOMER], NATIVE, [CUSTOMER]),
        (TUNNEL, [CUSTOMER], TUNNEL, [CUSTOMER]),
        (TUNNEL, [CUSTOMER], ACCESS, []),
        (in_vlan_10("dot1q-tunnel", 20), [CUSTOMER], TRUNK, [SERVICE, CUSTOMER]),
        (TUNNEL, [CUSTOMER], in_vlan_10("dot1q-tunnel", 20, 21), [CUSTOMER]),
        (TUNNEL, [CUSTOMER], in_vlan_10("dot1q-tunnel", 21), None),
        (in_vlan_10("dot1q-tunnel", tpid=C_TAG), [CUSTOMER], TRUNK, [(C_TAG, 10), CUSTOMER]),
    ],
)
def test_frames_follow_through_vlans_as_the_switch_itself_would_send_them(
    switch, origin, tags, peer, expected
):
    with bridge(switch) as br:
        for role, port in (("guest", origin), ("peer", peer)):
            if columns := columns_of(port):
                switch.vsctl("set", "Port", br.ports[role], *columns)
        place = replace(br.location(), vlan=origin)
        vlans = {place.ofport: origin, br.ofport("peer"): peer}
        vlan = origin.tag or tags[0][1]
        tracker = MacTracker(0.0)
        br.taps["guest"].send(tagged(rarp(GUEST), tags))
        wait_until(lambda: br.place_of(GUEST) == (str(place.ofport), vlan), "learned here")
        tracker.table(table_of(switch, br.name), place, ROWS, 0.0)
        tracker.hold((StationKey(GUEST, tags[0][1] if tags else 0),), 0.1)

        br.taps["peer"].send(ingress_frame(rarp(GUEST), vlan, peer))
        there = (str(br.ofport("peer")), vlan)
        wait_until(lambda: br.place_of(GUEST) == there, "learned there")
        assert tracker.table(table_of(switch, br.name), place, ROWS, 0.2)
        held = tagged(frame(7), tags)
        (parcel,) = tracker.rewrite([held], place, vlans, ROWS)
        if expected is None:
            # The switch looks at what a port includes only when it floods.
            assert parcel is Unfit.TO_NO_VLAN
            return
        br.taps["peer"].frames()
        deliver(place.mgmt_path, [parcel])
        forwarded = tap_frames(br.taps["peer"], 1)
        assert forwarded == [tagged(frame(7), expected)]
        # The oracle: what the bridge does with such a frame itself.
        br.taps["guest"].send(held)
        assert tap_frames(br.taps["peer"], 1) == forwarded


def test_a_held_frame_passes_the_split_horizon_of_a_mesh_which_the_networks_own_do_not(switch):
    """Tunnels of a full mesh are protected ports: what comes by one does not leave by another."""
    with bridge(switch) as br:
        here, there = ((str(br.ofport(name)), 0) for name in ("guest", "peer"))
        third = Tap(switch.namespace, f"third{br.name}")
        switch.add_port(br.name, f"third{br.name}")
        wait_until(lambda: switch.ofport(f"third{br.name}"), "the third port")
        for name in (br.ports["peer"], f"third{br.name}"):
            switch.vsctl("set", "Port", name, "protected=true")
        br.taps["guest"].send(rarp(GUEST))
        wait_until(lambda: br.place_of(GUEST) == here, "learned here")
        tracker = MacTracker(0.0)
        tracker.table(table_of(switch, br.name), br.location(), ROWS, 0.0)
        tracker.hold((StationKey(GUEST, 0),), 0.1)
        third.send(frame(1))
        held = tap_frames(br.taps["guest"], 1)
        br.taps["peer"].send(rarp(GUEST))
        wait_until(lambda: br.place_of(GUEST) == there, "learned there")
        assert tracker.table(table_of(switch, br.name), br.location(), ROWS, 0.2)

        # One that comes now, as the network behind the third port has not learned yet, is lost.
        third.send(frame(2))
        third.send(after := b"\xff" * 6 + frame(3)[6:])
        assert tap_frames(br.taps["guest"], 1) == [after]

        deliver(br.location().mgmt_path, tracker.rewrite(held, br.location(), {}, ROWS))
        assert tap_frames(br.taps["peer"], 1) == held == [frame(1)]
        os.close(third.fd)


def test_a_guests_last_frames_are_counted_before_it_is_learned_elsewhere(switch):
    """They had a flow of their own, and would move it back when that is looked at."""
    with bridge(switch) as br:
        here, there = ((str(br.ofport(name)), 0) for name in ("guest", "peer"))
        br.taps["peer"].send(rarp(CLIENT))
        wait_until(lambda: br.place_of(CLIENT) == there, "the client is learned")
        for number in range(2):  # the first makes the flow
            br.taps["guest"].send(CLIENT + GUEST + frame(number)[12:])
            wait_until(lambda: br.taps["peer"].frames(), "the guest's frame")
        assert br.place_of(GUEST) == here
        tracker = MacTracker(0.0)
        tracker.hold((), 0.0)
        tracker.table(table_of(switch, br.name), br.location(), ROWS, 0.0)
        nobody = bytes.fromhex("02000000feed")
        flush = tracker.flush_frame(nobody, br.location())

        teach(br, flush)
        wait_until(lambda: br.place_of(nobody) == here, "the frame of nobody")
        assert all(f[6:12] != nobody for f in br.taps["peer"].frames())

        br.taps["peer"].send(rarp(GUEST))
        wait_until(lambda: br.place_of(GUEST) == there, "learned there")
        for _ in range(2):
            switch.appctl("ovs-vswitchd", "revalidator/wait")
            assert br.place_of(GUEST) == there


def test_an_announcement_that_met_a_cached_flow_is_counted_too(switch):
    """So it does when a guest moves to and fro: the flow of the move before is still there."""
    # It would come to look by itself, after half a second: not in this test.
    setting = ("Open_vSwitch", ".", "other_config:max-revalidator=3600000")
    with bridge(switch) as br:
        here, there = ((str(br.ofport(name)), 0) for name in ("guest", "peer"))
        br.taps["peer"].send(rarp(GUEST))
        wait_until(lambda: br.place_of(GUEST) == there, "learned there, by a flow")
        br.taps["guest"].send(rarp(GUEST))
        wait_until(lambda: br.place_of(GUEST) == here, "it comes")
        switch.vsctl("set", *setting)
        tracker = MacTracker(0.0)
        tracker.table(table_of(switch, br.name), br.location(), ROWS, 0.0)
        tracker.hold((StationKey(GUEST, 0),), 0.0)
        teach(br, settle(tracker, br, switch, "02000000feed", sighted=0))
        wait_until(lambda: br.place_of(bytes.fromhex("02000000feed")) == here, "all is counted")
        br.taps["guest"].frames()
        br.taps["peer"].send(rarp(GUEST))
        wait_until(lambda: br.taps["guest"].frames(), "it goes, and is sighted")
        if br.place_of(GUEST) == here:  # as a rule: the bridge may still be counting
            teach(br, settle(tracker, br, switch, "02000000beef", sighted=1))
        wait_until(lambda: br.place_of(GUEST) == there, "learned there")
        switch.vsctl("remove", "Open_vSwitch", ".", "other_config", "max-revalidator")


def settle(tracker, br, switch, nobody, sighted):
    """The frame by which the bridge is made to count, after so many looks as that takes."""
    tracker.hold((StationKey(GUEST, 0),), 1.0, sighted)
    for _ in range(2):
        tracker.table(table_of(switch, br.name), br.location(), ROWS, 1.0)
    return tracker.flush_frame(bytes.fromhex(nobody), br.location())


def teach(br, frame):
    connection = BridgeConnection(br.location().mgmt_path)
    turn(connection, lambda _: connection.idle or None)
    connection.packet_out(br.ofport("guest"), frame, Output.NORMAL)
    connection.run(time.monotonic())
    connection.close()


def test_a_connection_that_ends_says_so(switch):
    with bridge(switch) as br:
        connection = BridgeConnection(br.location().mgmt_path)
        turn(connection, lambda _: connection.idle or None)
        switch.vsctl("del-br", br.name)
        connection.packets_to([(frame(1), 1)], time.monotonic())
        (done,) = turn(connection, lambda done: done or None)
        assert done.lost
        connection.close()
