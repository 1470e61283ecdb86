# SPDX-License-Identifier: Apache-2.0
"""A result as a line for people, and as values for programs."""

import pytest

from ovs_vhost_plugin.announce.announcement import Announcement, Request
from ovs_vhost_plugin.announce.result import Outcome
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station
from ovs_vhost_plugin.net.vlan import PortVlan, VlanMode

MAC = bytes.fromhex("525400123456")
RESULT = Announcement(Request("vhu0", Station(MAC, 10), "moved-in", 1.0), 1.0)


def test_the_guests_own_tag_is_in_the_line():
    assert RESULT.result().summary() == "52:54:00:12:34:56 vlan 10 not-learned moved-in"


def test_nothing_is_said_of_a_place_that_there_was_not():
    said = RESULT.result().as_dict()
    assert (said["bridge"], said["ofport"], said["tag"]) == (None, None, None)
    assert (said["sent_at"], said["learned_at"], said["milliseconds"]) == (None, None, None)


@pytest.mark.parametrize(("vlan", "tag"), [(PortVlan(VlanMode.ACCESS, 5), 5), (PortVlan(), None)])
def test_the_place_is_the_bridge_the_port_and_its_vlan(vlan, tag):
    announcement = Announcement(Request("vhu0", Station(MAC), "moved-in", 1.0), 1.0)
    announcement.sent(Location("br0", 2, "/run/br0.mgmt", vlan), (), 1.5, injected=False)
    announcement.confirmed(Outcome.LEARNED, "fdb", 1.25)
    said = announcement.result().as_dict()
    assert (said["bridge"], said["ofport"], said["tag"]) == ("br0", 2, tag)
    assert (said["sent_at"], said["learned_at"], said["milliseconds"]) == (1.5, 1.25, 250.0)
