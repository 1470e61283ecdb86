# SPDX-License-Identifier: Apache-2.0
"""The question to the switch that follows an attempt."""

from dataclasses import replace

from ovs_vhost_plugin.announce.actions import AskTrace
from ovs_vhost_plugin.announce.announcement import Announcement, Request
from ovs_vhost_plugin.announce.attempt import Attempt
from ovs_vhost_plugin.announce.frames.announcements import gratuitous_arp, rarp
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station

MAC = bytes.fromhex("525400123456")
HOME = Location("br0", 2, "/run/br0.mgmt")
FRAMES = (rarp(MAC), gratuitous_arp(MAC, bytes([192, 0, 2, 1])))


def attempt(location=HOME, vlan=0, **known):
    announcement = Announcement(Request("vhu0", Station(MAC, vlan), "manual", 0.0), 0.0)
    announcement.sent(location, FRAMES, 0.0, injected=False)
    return Attempt(announcement, location, **known)


def test_first_where_a_frame_to_the_station_goes():
    to = "in_port=LOCAL,dl_dst=52:54:00:12:34:56"
    assert attempt().question(7) == AskTrace(7, "br0", to, b"")
    assert attempt(vlan=10).question(7) == AskTrace(7, "br0", f"{to},dl_vlan=10", b"")


def test_then_whether_each_kind_of_frame_gets_in():
    for sample, frame in enumerate(FRAMES):
        question = attempt(known_by="fdb", sample=sample).question(8)
        assert question == AskTrace(8, "br0", "in_port=2", frame)


def test_ovn_is_asked_for_a_frame_of_the_guest_to_itself():
    mac = "52:54:00:12:34:56"
    flow = f"in_port=2,dl_src={mac},dl_dst={mac},dl_vlan=10"
    assert attempt(replace(HOME, ovn=True), vlan=10).question(9) == AskTrace(9, "br0", flow, b"")
