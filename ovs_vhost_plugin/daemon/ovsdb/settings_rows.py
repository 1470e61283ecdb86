# SPDX-License-Identifier: Apache-2.0
"""Rows → the settings of a port's worker, which may change while it runs (`ipc/spec.py`). Pure."""

from typing import Any

from ovs_vhost_plugin.announce.policy import Policy
from ovs_vhost_plugin.daemon.ovsdb.carriage import USERSPACE, Offloads, finishes, offered_mtu
from ovs_vhost_plugin.daemon.ovsdb.row_values import RowError, RowErrorName, is_true, parse_mac
from ovs_vhost_plugin.daemon.ovsdb.switch_row import Switch
from ovs_vhost_plugin.ipc.spec import PortSettings
from ovs_vhost_plugin.net.station import is_unicast
from ovs_vhost_plugin.vhost import withheld

MAC_KEY = "attached-mac"
"""The MAC's key as in libvirt, OVN and Open vSwitch's integration guide; not our own."""
CONFIG_KEY = "vhost-user-config"
POSTCOPY_KEY = "vhost-user-postcopy"
MEMORY_KEY = "vhost-user-memory-files"
FEATURES_OFF_KEY = "vhost-user-features-off"
OFFLOADS_KEY = "vhost-user-offloads"
ANY_MEMORY = "any"
"""The only value of MEMORY_KEY."""

_MTU_MIN, _MTU_MAX = 68, 65535  # virtio 1.2, 5.1.4.1: from 68; VIRTIO_NET_F_MTU's field is 16 bits


def parse(
    interface: Any, bridge: Any, switch: Switch, announce: Policy
) -> tuple[PortSettings, list[str], str]:
    """The settings, the faults of keys that a port works without, and the MTU's fault or "".

    Raises RowError.
    """
    keys = interface.external_ids
    mtu, not_taken = _mtu(interface)
    config = is_true(keys.get(CONFIG_KEY))
    warnings = []
    if keys.get(MEMORY_KEY, ANY_MEMORY) != ANY_MEMORY:
        warnings.append(f"memory-files-unknown: external_ids:{MEMORY_KEY}: only 'any' can be set")
    offloads = keys.get(OFFLOADS_KEY, Offloads.AUTO)
    if offloads not in list(Offloads):
        words = ", ".join(Offloads)
        warnings.append(f"offloads-unknown: external_ids:{OFFLOADS_KEY}: one of {words}")
    off, mistaken = withheld.parse(keys.get(FEATURES_OFF_KEY, ""))
    warnings += [f"{one.name}: external_ids:{FEATURES_OFF_KEY}: {one.text}" for one in mistaken]
    settings = PortSettings(
        mtu=mtu,
        finish_offloads=finishes(
            offloads,
            bridge,
            takes_offloads=switch.takes_offloads,
            into_tunnels=switch.into_tunnels,
        ),
        # Open vSwitch's own datapath takes large frames of TCP only.
        finish_udp=bridge.datapath_type == USERSPACE,
        # Not where the bridge starts with an empty pipeline, and so learns nothing.
        hold=announce.hold and list(bridge.fail_mode) != ["secure"],
        state=announce.state,
        # Only for ports whose front-ends may ask for it: a change does not concern the others.
        config=config,
        mac=_nic_mac(keys.get(MAC_KEY, "")) if config else b"",
        link_up=list(interface.admin_state) != ["down"] or not config,
        postcopy=is_true(keys.get(POSTCOPY_KEY)),
        any_memory=keys.get(MEMORY_KEY) == ANY_MEMORY,
        features_off=off.features,
        protocol_features_off=off.protocol_features,
    )
    return settings, warnings, not_taken


def _nic_mac(text: str) -> bytes:
    """The guest's MAC, if automation gave one that a NIC can have, else b""."""
    mac = parse_mac(text)
    return mac if mac is not None and is_unicast(mac) else b""


def _mtu(interface: Any) -> tuple[int | None, str]:
    """The MTU to offer, and the fault of the requested one, or ""."""
    if not interface.mtu_request:
        return None, ""
    request = int(interface.mtu_request[0])
    if not _MTU_MIN <= request <= _MTU_MAX:
        raise RowError(
            RowErrorName.MTU_OUT_OF_RANGE, f"set mtu_request to {_MTU_MIN} to {_MTU_MAX}"
        )
    return offered_mtu(request, interface)
