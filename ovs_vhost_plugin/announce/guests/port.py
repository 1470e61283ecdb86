# SPDX-License-Identifier: Apache-2.0
"""The facts of a port that its guest's announcements depend on, as its rows say them."""

from __future__ import annotations

from dataclasses import dataclass

from ovs_vhost_plugin.announce.policy import Policy
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station


@dataclass(frozen=True, slots=True)
class GuestPort:
    """A port whose guest may have to be announced.

    given       the stations that automation gave to its guest, its NIC's own MAC first
    attached    automation names the NIC's MAC: no other is announced but those given
    socket      the mode and path by which front-ends come: with another it is another guest's
    snoops      the bridge sends multicast only where it was asked for
    bridge_mac  the bridge's own MAC, from which the guest can be asked; None: it has none
    """

    name: str
    location: Location
    policy: Policy
    given: tuple[Station, ...] = ()
    attached: bool = False
    socket: tuple[str, str] = ("", "")
    snoops: bool = False
    bridge_mac: bytes | None = None
