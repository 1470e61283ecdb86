# SPDX-License-Identifier: Apache-2.0
"""The content of all rows at one time, and the names of those that differ from before."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from ovs_vhost_plugin.common.text import escaped
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.ovsdb.row_values import RowError
from ovs_vhost_plugin.daemon.ovsdb.switch_row import Switch
from ovs_vhost_plugin.net.vlan import PortVlan


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The content of all rows.

    keys       external_ids of every Interface row, by name
    own_macs   the MACs of each bridge's internal ports, by bridge
    vlans      the VLAN settings of each port of a bridge, by bridge and OpenFlow number
    adopted    rows of an OVS-DPDK type that are taken over: name → the external_ids to set when
               the type is cleared
    serial     counts the snapshots
    changed    names of the interfaces that are not as in the snapshot before; None: any may be
    """

    switch: Switch
    ports: dict[str, PortSpec] = field(default_factory=dict)
    errors: dict[str, RowError] = field(default_factory=dict)
    keys: dict[str, Mapping[str, str]] = field(default_factory=dict)
    adopted: dict[str, Mapping[str, str | None]] = field(default_factory=dict)
    own_macs: dict[str, set[str]] = field(default_factory=dict)
    vlans: dict[tuple[str, int], PortVlan] = field(default_factory=dict)
    serial: int = 0
    changed: Set[str] | None = None

    def changed_since(self, before: "Snapshot | None") -> Set[str]:
        """Names of the interfaces that are not as `before`, at least; those that went too."""
        if before is not None and self.changed is not None and before.serial + 1 == self.serial:
            return self.changed
        both = (self,) if before is None else (self, before)
        return {name for one in both for name in (*one.keys, *one.ports)}

    def complaint(self, name: str) -> str:
        """The fault of a row that makes no port, or of a key of another row; "" for none."""
        if name in self.errors:
            return str(self.errors[name])
        return self.ports[name].warning if name in self.ports else ""

    @property
    def complaints(self) -> dict[str, str]:
        """All complaints by name, escaped: a row that makes no port may have any name."""
        found = {escaped(name): self.complaint(name) for name in (*self.errors, *self.ports)}
        return {name: text for name, text in found.items() if text}
