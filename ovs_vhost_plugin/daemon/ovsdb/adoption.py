# SPDX-License-Identifier: Apache-2.0
"""Automation written for OVS-DPDK, on a switch without DPDK (`--adopt-dpdk-types`). Pure.

Rows of OVS-DPDK's interface types are taken over. These types are also added to the switch's own in
Open_vSwitch:iface_types, by which Neutron decides whether a VM gets a vhost-user port or a tap.

ovs-vswitchd writes that column at the end of each reconfiguration, with its own types
(discover_types in vswitchd/bridge.c). A write of ours does not make it reconfigure. So each of its
writes is followed by one of ours, and by nothing more.
"""

from collections.abc import Collection, Mapping
from typing import Any

from ovs_vhost_plugin.common.ratelimit import TokenBucket
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import MODE_KEY

TYPE_KEY = "vhost-user-dpdk-type"
"""The key in which a row that was taken over keeps its former type."""

MODES = {"dpdkvhostuser": "server", "dpdkvhostuserclient": "client"}
"""OVS-DPDK's interface types → our mode with the same meaning."""

_DPDK = "dpdk"
"""The type of DPDK's network cards: a switch with DPDK has all three types (netdev_dpdk_register in
lib/netdev-dpdk.c). We never add this one, so the other two without it were added by us."""

TELL_KEY = "vhost-user-iface-types"
"""Key of Open_vSwitch:external_ids: whether to add the types, "true" or "false"."""

_OVN_KEY = "ovn-remote"
"""Key of Open_vSwitch:external_ids, also with a chassis' name appended (ovn-controller(8))."""

RATE, BURST = 10.0, 100
"""Most writes of the column, a second and at once. A program that waits for the switch, such as
Neutron's agent, goes on at the switch's write that drops our types. So our write follows at once,
unless the switch reconfigures all the time."""


def lacks_dpdk(iface_types: Collection[str]) -> bool:
    """Whether the switch has written its types, and DPDK's are not among them."""
    return _DPDK not in iface_types and not MODES.keys() >= set(iface_types)


def is_adoptable(interface: Any, iface_types: Collection[str]) -> bool:
    """Whether a row is of an OVS-DPDK type that this ovs-vswitchd does not have."""
    return interface.type in MODES and lacks_dpdk(iface_types)


def keys(interface: Any) -> dict[str, str | None]:
    """The external_ids to set when a row's OVS-DPDK type is cleared."""
    had: Mapping[str, str] = interface.external_ids
    mode = MODES[interface.type]
    if had.get(TYPE_KEY, interface.type) == interface.type:
        mode = had.get(MODE_KEY, mode)
    return {TYPE_KEY: interface.type, MODE_KEY: mode}


class TakenOver:
    """An adoptable row, seen as if its type were cleared already.

    It is seen so from the first look: Nova sets the type of all its ports again when it starts, and
    their guests should notice as little as possible.
    """

    def __init__(self, interface: Any) -> None:
        self._interface = interface
        self.type = ""
        self.external_ids = {**interface.external_ids, **keys(interface)}

    def __getattr__(self, column: str) -> Any:
        return getattr(self._interface, column)


def tells(external_ids: Mapping[str, str]) -> bool:
    """Whether to add the types; `external_ids` are the Open_vSwitch row's.

    Not on a host of OVN, unless asked for: ovn-controller copies the column to the southbound
    database, and any change of a Chassis there makes ovn-northd and every host's ovn-controller
    recompute everything (en_northd in northd/inc-proc-northd.c, en_runtime_data in
    controller/ovn-controller.c), twice for each port that is plugged.
    """
    said = external_ids.get(TELL_KEY)
    if said is None:
        return not any(key.startswith(_OVN_KEY) for key in external_ids)
    return said.lower() == "true"


def told(iface_types: Collection[str], wanted: bool) -> dict[str, bool]:
    """The types to add to the column (True) and to remove from it (False)."""
    if not lacks_dpdk(iface_types):
        return {}
    return {name: wanted for name in MODES if (name in iface_types) is not wanted}


class Telling:
    """Limits the writes of the column."""

    def __init__(self) -> None:
        self._bucket = TokenBucket(RATE, BURST, 0.0)

    def step(
        self, iface_types: Collection[str], wanted: bool, now: float
    ) -> dict[str, bool] | float:
        """The result of `told` to write now, or the time at which to write it."""
        todo = told(iface_types, wanted)
        if todo and not self._bucket.take(now):
            return self._bucket.ready_at(now)
        return todo
