# SPDX-License-Identifier: Apache-2.0
"""Automation written for OVS-DPDK, on a switch without DPDK (`--adopt-dpdk-types`). Pure.

Rows of OVS-DPDK's interface types are taken over. And these types are told as the switch's own, in
Open_vSwitch:iface_types: by it Neutron decides whether a VM gets a vhost-user port or a tap.

ovs-vswitchd writes that column at the end of each reconfiguration, with the types that it has
itself (discover_types in vswitchd/bridge.c). A write of ours is no reason for it to reconfigure. So
each of its writes is followed by one of ours, and there it ends.
"""

from collections.abc import Collection, Mapping
from typing import Any

from ovs_vhost_plugin.common.ratelimit import TokenBucket
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import MODE_KEY

TYPE_KEY = "vhost-user-dpdk-type"
"""Where a row that was taken over keeps the type it had."""

MODES = {"dpdkvhostuser": "server", "dpdkvhostuserclient": "client"}
"""OVS-DPDK's interface types → the mode that means the same."""

_DPDK = "dpdk"
"""A type of its own network cards: a switch with DPDK has all three (netdev_dpdk_register in
lib/netdev-dpdk.c). As we never tell it, the other two without it are told by us."""

TELL_KEY = "vhost-user-iface-types"
"""Of Open_vSwitch: external_ids: "true" or "false", whether the types are told."""

_OVN_KEY = "ovn-remote"
"""Of Open_vSwitch: external_ids, or that with a chassis' name behind it (ovn-controller(8))."""

RATE, BURST = 10.0, 100
"""Most writes of the column, a second and at once. Whoever waits for the switch, as Neutron's agent
does, goes on by the very write of the switch that takes our types out: so ours follows at once,
unless the switch reconfigures all the time."""


def lacks_dpdk(iface_types: Collection[str]) -> bool:
    """Whether the switch has told its types, and DPDK's are not among them."""
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
    """An adoptable row as it is when its type is cleared.

    It counts as that from the first look at it: Nova sets the type of all its ports anew when it
    starts, and the guests behind them are to notice as little as can be.
    """

    def __init__(self, interface: Any) -> None:
        self._interface = interface
        self.type = ""
        self.external_ids = {**interface.external_ids, **keys(interface)}

    def __getattr__(self, column: str) -> Any:
        return getattr(self._interface, column)


def tells(external_ids: Mapping[str, str]) -> bool:
    """Whether the types are told; `external_ids` are the Open_vSwitch row's.

    Not on a host of OVN, if nobody asks for it: ovn-controller passes the column on to the
    southbound database, and whatever changes in a Chassis there has ovn-northd and the
    ovn-controller of every host compute all anew (en_northd in northd/inc-proc-northd.c,
    en_runtime_data in controller/ovn-controller.c): twice for each port that is plugged.
    """
    said = external_ids.get(TELL_KEY)
    if said is None:
        return not any(key.startswith(_OVN_KEY) for key in external_ids)
    return said.lower() == "true"


def told(iface_types: Collection[str], wanted: bool) -> dict[str, bool]:
    """Which types to add to the column (True) and which to take out of it (False)."""
    if not lacks_dpdk(iface_types):
        return {}
    return {name: wanted for name in MODES if (name in iface_types) is not wanted}


class Telling:
    """When the column is written."""

    def __init__(self) -> None:
        self._bucket = TokenBucket(RATE, BURST, 0.0)

    def step(
        self, iface_types: Collection[str], wanted: bool, now: float
    ) -> dict[str, bool] | float:
        """What to write now, as `told` has it; or when to write it."""
        todo = told(iface_types, wanted)
        if todo and not self._bucket.take(now):
            return self._bucket.ready_at(now)
        return todo
