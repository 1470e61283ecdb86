# SPDX-License-Identifier: Apache-2.0
"""The Open_vSwitch row → settings of all ports. Pure."""

from dataclasses import dataclass
from typing import Any

from ovs_vhost_plugin.announce import policy
from ovs_vhost_plugin.announce.policy import Policy
from ovs_vhost_plugin.daemon.ovsdb.row_values import is_true
from ovs_vhost_plugin.daemon.ovsdb.tunnels import lead_into_tunnels, version_of

STATE_KEY = "vhost-user-device-state"
"""Key of Open_vSwitch:other_config: the default of all ports' `state=` in ANNOUNCE_KEY."""


@dataclass(frozen=True, slots=True)
class Switch:
    """The Open_vSwitch row's settings of all ports.

    rundir      directory of ovs-vswitchd's sockets
    sock_dir    other_config:vhost-sock-dir, relative to `rundir`
    takes_offloads  userspace bridges take partial checksums and GSO frames
    version     ovs_version: later ones finish in their tunnels what others leave unfinished
    into_tunnels  names of bridges that lead into tunnels which take none
    iface_types interface types of ovs-vswitchd, empty until it has written them, and those that we
                have added (`adoption`)
    announce    the announcement policy of guests whose rows have none
    metrics     other_config:vhost-user-metrics (`daemon/metrics/place.py`)
    """

    rundir: str
    sock_dir: str
    takes_offloads: bool
    iface_types: frozenset[str]
    version: str = ""
    into_tunnels: frozenset[str] = frozenset()
    announce: Policy = policy.DEFAULT
    metrics: str = ""


def parse_switch(row: Any, rundir: str, into_tunnels: frozenset[str] | None = None) -> Switch:
    """Read the Open_vSwitch row. `rundir` counts unless external_ids:rundir has a better one.

    into_tunnels  the bridges that lead into tunnels, where that is known; else they are looked for
    """
    version = next(iter(row.ovs_version), "")
    if into_tunnels is None:
        into_tunnels = lead_into_tunnels(row.bridges, version_of(version))
    named = row.external_ids.get("rundir", "")
    return Switch(
        rundir=named if named.startswith("/") else rundir,
        sock_dir=row.other_config.get("vhost-sock-dir", ""),
        takes_offloads=is_true(row.other_config.get("userspace-tso-enable")),
        iface_types=frozenset(row.iface_types),
        version=version,
        into_tunnels=into_tunnels,
        announce=Policy(state=is_true(row.other_config.get(STATE_KEY))),
        metrics=row.other_config.get("vhost-user-metrics", ""),
    )
