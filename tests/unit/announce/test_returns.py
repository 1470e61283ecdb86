# SPDX-License-Identifier: Apache-2.0
"""Guests that come back to a bridge: it learns before the network does, if it can within a time."""

from dataclasses import replace

import pytest

from ovs_vhost_plugin.announce.actions import (
    AskRevalidator,
    AskTable,
    PacketOut,
    TellBridge,
    WakeSwitch,
)
from ovs_vhost_plugin.announce.announcement import SETTLES_WITHIN, Request
from ovs_vhost_plugin.announce.announcer import Announcer
from ovs_vhost_plugin.announce.frames.announcements import rarp
from ovs_vhost_plugin.announce.policy import DEFAULT
from ovs_vhost_plugin.announce.returns import CACHED, MOST, WAKES
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station
from ovs_vhost_plugin.openflow.wire import Output

MAC, OTHER = bytes.fromhex("525400123456"), bytes.fromhex("525400123457")
HOME = Location("br0", 2, "/run/br0.mgmt")
GUEST = Station(MAC)
LEARNED = " -> learned that 52:54:00:12:34:56 is on port vhu0 in VLAN 0\n"


class Bridge:
    """The announcer of one port, whose guest has left at 10.0 s; it acts when it is told to."""

    def __init__(self, location=HOME):
        self.announcer = Announcer()
        self.announcer.set_locations({"vhu0": location})
        self.announcer.returns.left("br0", [MAC], 10.0)

    def comes(self, now, station=GUEST, **fields):
        """Its guest, or another one, comes: what is to be done."""
        request = Request("vhu0", station, "moved-in", now)
        self.announcer.request(replace(request, **fields), now)
        return self.run(now)

    def run(self, now):
        return self.announcer.run(now, lambda _: None)

    def told(self, action, text, now):
        self.announcer.returns.told(action.number, text, now)
        return self.run(now)

    def revalidated(self, now):
        self.announcer.returns.revalidated(now)
        return self.run(now)


@pytest.fixture
def bridge():
    return Bridge()


def kinds(actions):
    return [type(action) for action in actions]


def test_the_bridge_learns_and_the_revalidator_comes_by_before_the_network_is_told(bridge):
    wait, tell = bridge.comes(11.0)
    assert wait == AskRevalidator()
    assert tell == TellBridge(1, "br0", "in_port=2", rarp(MAC))
    assert bridge.told(tell, LEARNED, 11.001) == []
    (sent,) = bridge.revalidated(11.002)
    assert isinstance(sent, PacketOut) and sent.frames == (rarp(MAC),)
    bridge.announcer.delivered(sent.token)
    assert bridge.run(11.003) == [AskTable("br0")]


def test_a_turn_of_the_revalidator_from_before_the_bridge_learned_does_not_count(bridge):
    _, tell = bridge.comes(11.0)
    assert bridge.revalidated(11.001) == [AskRevalidator()]
    assert bridge.told(tell, LEARNED, 11.002) == []
    assert kinds(bridge.revalidated(11.003)) == [PacketOut]
    assert bridge.told(tell, LEARNED, 11.004) == [], "it is answered once"


@pytest.mark.parametrize("text", ["", " -> no learned MAC for destination, flooding\n"])
def test_a_bridge_that_learns_nothing_is_not_waited_for(bridge, text):
    """fail_mode=secure, flows of one's own, no answer, or the guest has spoken already."""
    _, tell = bridge.comes(11.0)
    assert kinds(bridge.told(tell, text, 11.001)) == [PacketOut]


def test_the_network_is_told_in_the_end(bridge):
    bridge.comes(11.0)
    times = []
    while (now := bridge.announcer.get_timer()) < 11.0 + SETTLES_WITHIN:
        assert bridge.run(now) == [WakeSwitch()]
        times.append(now)
    assert times[0] == 11.0 + WAKES and len(times) < SETTLES_WITHIN / WAKES
    (sent,) = bridge.run(now)
    bridge.announcer.delivered(sent.token)
    bridge.run(now)
    assert bridge.announcer.get_timer() > now + 1, "it is not woken any more"


def test_an_answer_that_comes_late_changes_nothing(bridge):
    _, tell = bridge.comes(11.0)
    bridge.told(tell, LEARNED, 11.001)
    now = 11.0 + SETTLES_WITHIN
    sent, _ = bridge.run(now)
    bridge.announcer.delivered(sent.token)
    bridge.run(now)
    bridge.announcer.table("br0", "", now)
    timer = bridge.announcer.get_timer()
    assert bridge.revalidated(now) and bridge.announcer.get_timer() == timer


def test_a_guest_that_was_not_here_is_announced_at_once(bridge):
    assert kinds(bridge.comes(11.0, Station(OTHER))) == [PacketOut]


def test_a_guest_that_left_long_ago_is_announced_at_once(bridge):
    assert kinds(bridge.comes(10.1 + CACHED)) == [PacketOut]


@pytest.mark.parametrize("trigger", ["manual", "resumed", "guest-silent"])
def test_a_guest_that_has_been_here_is_announced_at_once(bridge, trigger):
    assert kinds(bridge.comes(11.0, trigger=trigger)) == [PacketOut]


def test_where_no_flow_reads_the_table_or_none_is_asked_it_is_announced_at_once(bridge):
    past = replace(DEFAULT, output=Output.NORMAL)
    assert kinds(bridge.comes(11.0, policy=past)) == [PacketOut]
    assert kinds(Bridge(replace(HOME, ovn=True)).comes(11.0)) == [PacketOut]


def test_another_bridge_is_announced_to_at_once():
    assert kinds(Bridge(replace(HOME, bridge="br1")).comes(11.0)) == [PacketOut]


def test_only_the_first_announcement_waits(bridge):
    _, tell = bridge.comes(11.0)
    bridge.told(tell, LEARNED, 11.001)
    assert kinds(bridge.revalidated(11.001)) == [PacketOut]
    bridge.announcer.withdraw("vhu0", "another")
    assert kinds(bridge.comes(11.1)) == [PacketOut]
    bridge.announcer.returns.left("br0", [MAC], 12.0)
    bridge.announcer.withdraw("vhu0", "it has stopped")
    assert kinds(bridge.comes(13.0)) == [AskRevalidator, TellBridge], "it has left once more"


def test_each_vlan_of_a_guest_waits_and_what_comes_meanwhile_has_a_wait_of_its_own(bridge):
    _, tell = bridge.comes(11.0)
    assert bridge.comes(11.001, Station(MAC, 10)) == []
    assert bridge.told(tell, LEARNED, 11.001) == []
    actions = bridge.revalidated(11.002)
    assert kinds(actions) == [PacketOut, AskRevalidator, TellBridge]
    assert actions[2].frame[12:16] == bytes.fromhex("8100000a")


def test_what_is_remembered_is_bounded(bridge):
    returns = bridge.announcer.returns
    returns.left("br0", [number.to_bytes(6) for number in range(MOST)], 11.0)
    assert kinds(bridge.comes(11.0)) == [PacketOut], "it was the oldest"
    assert kinds(bridge.comes(11.0, Station((MOST - 1).to_bytes(6)))) != [PacketOut]
    returns.left("br0", [], 11.1 + CACHED)
    assert returns._left == {}
