# SPDX-License-Identifier: Apache-2.0
"""One attempt at an announcement, and what the switch is to be asked of it next.

First whether the station is on the port: by the MAC table, or else by where a frame to it goes. As
it may be there from before, then whether the announcement gets through: the bridge's flows are
asked for a frame of each kind, until one does.
"""

from __future__ import annotations

from dataclasses import dataclass

from ovs_vhost_plugin.announce.actions import AskTrace
from ovs_vhost_plugin.announce.announcement import Announcement
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.vswitchd import trace


@dataclass(frozen=True, slots=True)
class Attempt:
    """Frames of `announcement` that were sent at `location`."""

    announcement: Announcement
    location: Location
    reason: str = ""  # what the MAC table says, while the flows are still to be asked
    known_by: str = ""  # what has the station on the port: now it is asked how it came there
    sample: int = 0  # by the frame of this kind

    @property
    def station_vlan(self) -> int:
        """The tag of the guest's own frames."""
        return self.announcement.request.station.vlan

    def question(self, token: int) -> AskTrace:
        """The frame to ask about, with the guest's own tag: flows see that, and not the port's."""
        place, mac, frame = self.location, self.announcement.request.station.mac, b""
        if place.ovn:
            flow = trace.flow_from(place.ofport, mac, self.station_vlan)
        elif self.known_by:
            flow, frame = trace.flow_in(place.ofport), self.announcement.samples[self.sample]
        else:
            flow = trace.flow_to(mac, self.station_vlan)
        return AskTrace(token, place.bridge, flow, frame)
