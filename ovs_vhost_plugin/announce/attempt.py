# SPDX-License-Identifier: Apache-2.0
"""One attempt at an announcement, and the next question to the switch about it.

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
    reason: str = ""  # of the MAC table, while the flows are still to be asked
    known_by: str = ""  # "fdb" or "flow" if that has the station on the port: by this attempt?
    sample: int = 0  # the index of the sample frame that is traced

    @property
    def station_vlan(self) -> int:
        """The tag of the guest's own frames."""
        return self.announcement.request.station.vlan

    def question(self, token: int) -> AskTrace:
        """The next question. The frame in it has the guest's own tag, as flows see that."""
        place, mac, frame = self.location, self.announcement.request.station.mac, b""
        if place.ovn:
            flow = trace.flow_from(place.ofport, mac, self.station_vlan)
        elif self.known_by:
            flow, frame = trace.flow_in(place.ofport), self.announcement.samples[self.sample]
        else:
            flow = trace.flow_to(mac, self.station_vlan)
        return AskTrace(token, place.bridge, flow, frame)
