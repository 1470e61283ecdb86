# SPDX-License-Identifier: Apache-2.0
"""Port locations from rows, and which port owns which MAC. Pure.

Only rows make an address a guest's. The reports of workers and front-ends are claims
(`announce/guests/claims.py`).
"""

from collections import defaultdict
from collections.abc import Container, Iterable

from ovs_vhost_plugin.announce.guests.port import GuestPort
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.ovsdb.row_values import parse_mac
from ovs_vhost_plugin.daemon.ovsdb.snapshot import Snapshot
from ovs_vhost_plugin.forward.rewrite import Rows
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station, merge


def location_of(port: PortSpec, rundir: str) -> Location:
    """The location at which frames of the port's guest come in."""
    return Location(
        bridge=port.bridge,
        ofport=port.ofport or -1,
        mgmt_path=f"{rundir}/{port.bridge}.mgmt",
        vlan=port.vlan,
        ovn=port.ovn,
        members=port.members,
        mates=port.mates,
        slb=port.slb,
        hindered=port.hindered,
    )


def given_to(port: PortSpec) -> tuple[Station, ...]:
    """The stations that automation gave to the port's guest, its NIC's own MAC first."""
    attached = parse_mac(port.attached_mac)
    own = () if attached is None else (Station(attached),)
    return merge((*own, *port.addresses))


class Owners:
    """The ports of each bridge to which the rows of a snapshot give a MAC."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._given: dict[str, tuple[str, frozenset[bytes]]] = {}  # by port, with its bridge
        self._index: dict[tuple[str, bytes], set[str]] = defaultdict(set)
        self._read(snapshot.ports)

    def follow(self, snapshot: Snapshot) -> None:
        """Take the next snapshot."""
        changed, self._snapshot = snapshot.changed_since(self._snapshot), snapshot
        self._read(changed)

    def _read(self, names: Iterable[str]) -> None:
        for name in names:
            bridge, macs = self._given.pop(name, ("", frozenset()))
            for mac in macs:
                self._index[bridge, mac].discard(name)
                if not self._index[bridge, mac]:
                    del self._index[bridge, mac]
            if (port := self._snapshot.ports.get(name)) is not None:
                macs = frozenset(station.mac for station in given_to(port))
                self._given[name] = port.bridge, macs
                for mac in macs:
                    self._index[port.bridge, mac].add(name)

    def guest_port(self, port: PortSpec) -> GuestPort:
        """The facts of a port that announcements depend on."""
        return GuestPort(
            port.name,
            location_of(port, self._snapshot.switch.rundir),
            port.announce,
            given_to(port),
            attached=bool(port.attached_mac),
            socket=(port.mode, port.path),
            snoops=port.snoops,
            bridge_mac=self._bridge_mac(port.bridge),
        )

    def rows_at(self, port: PortSpec) -> Rows:
        """The MACs of the rows, as seen from `port`."""
        ports = self._snapshot.ports
        others = {
            mac: {ofport for name in names if (ofport := ports[name].ofport) is not None}
            for (bridge, mac), names in self._index.items()
            if bridge == port.bridge and port.name not in names
        }
        return Rows(given_to(port), others, self._bridge_mac(port.bridge))

    def _bridge_mac(self, bridge: str) -> bytes | None:
        """One MAC of the host's on a bridge, always the same; None if it has none."""
        return parse_mac(min(self._snapshot.own_macs.get(bridge, ()), default=""))

    def mac_conflict(self, mac: bytes, name: str, running: Container[str]) -> str:
        """Why `mac` is not port `name`'s guest's to announce, "" if nothing speaks against it.

        It is another's if it is the bridge's own, or if a row gave it to another guest that runs
        on the same bridge. A MAC configured on two ports may be announced by either. What a guest
        uses, and what its front-end says, makes nothing its own: or one guest could keep another
        from being announced.

        running  ports whose guests run; of a guest that moves between two ports only one does
        """
        bridge = self._snapshot.ports[name].bridge
        if any(mac == parse_mac(own) for own in self._snapshot.own_macs.get(bridge, ())):
            return "mac-foreign: the bridge's own"
        owners = self._index.get((bridge, mac), set())
        if name in owners:
            return ""
        others = (one for one in sorted(owners) if one in running)
        return next((f"mac-foreign: {one}'s" for one in others), "")
