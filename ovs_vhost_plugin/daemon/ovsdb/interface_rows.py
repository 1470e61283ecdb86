# SPDX-License-Identifier: Apache-2.0
"""Rows of the database → the spec of a port, or a named error. Pure.

A row is any object with the columns as attributes: the Idl's, or a test's.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ovs_vhost_plugin.announce import addresses, policy
from ovs_vhost_plugin.announce.addresses import ADDRESSES_KEY, AddressError
from ovs_vhost_plugin.announce.policy import Policy, PolicyError
from ovs_vhost_plugin.daemon.ovsdb import port_rows, settings_rows
from ovs_vhost_plugin.daemon.ovsdb.carriage import (
    USERSPACE,
    Trouble,
    uncarried,
)
from ovs_vhost_plugin.daemon.ovsdb.row_values import RowError, RowErrorName, parse_mac
from ovs_vhost_plugin.daemon.ovsdb.settings_rows import MAC_KEY
from ovs_vhost_plugin.daemon.ovsdb.switch_row import Switch
from ovs_vhost_plugin.daemon.sockets.sockpolicy import OWNER_KEY
from ovs_vhost_plugin.ipc.spec import PortSettings
from ovs_vhost_plugin.net.station import Station
from ovs_vhost_plugin.net.vlan import ALL_VLANS, PortVlan

PATH_OPTION = "vhost-server-path"
"""OVS-DPDK's name of the path, by which libvirt finds a port. ovs-vswitchd warns of it for each
port at each change of its database: a system interface has no options (netdev_set_config in
lib/netdev.c)."""

PATH_KEY = "vhost-user-path"
"""The same, of which ovs-vswitchd says nothing."""

MODE_KEY = "vhost-user-mode"
QUEUES_KEY = "vhost-user-queues"
ANNOUNCE_KEY = "vhost-user-announce"

MAX_QUEUES = 128
"""Most queue pairs: a tap has at most 256 queues, and 2 x 128 vrings fit vhost-user's index."""

_NAME_MAX = 15  # IFNAMSIZ with its terminator is 16
_PATH_MAX, _FILE_NAME_MAX = 4095, 255  # bytes, linux/limits.h less the terminator

# The kernel's valid names (dev_valid_name), less '%', by which TUNSETIFF makes up names, and less
# characters that are not printable.
_NAME = re.compile(r"[!-~]+")
_NAME_REFUSED = re.compile(r"[/:%]")
# Directories under /proc/sys/net/ipv6/conf that are no interfaces, and links to a directory.
_NAMES_RESERVED = frozenset({"all", "default", ".", ".."})


@dataclass(frozen=True, slots=True)
class PortSpec:
    """The port that a row asks for.

    ofport   OpenFlow port, None until ovs-vswitchd has given one
    mode     "client": the front-end listens on `path`; "server": we do
    queues   most queue pairs offered
    settings  the worker's settings, which may change while it runs
    vlan     the port's VLAN settings
    userspace  the bridge is ovs-vswitchd's own, not the kernel's
    announce   the announcement policy
    addresses  the guest's addresses, as automation gave them
    warning  the fault of a key that the port works without, as name and text; "" for none
    ovn      ovn-controller has bound the port and made its flows
    socket_owner  the only user whose socket `path` may be, by name or number; "": not said
    troubles  faults that ovs-vswitchd reports, for now or for good, as text
    members  the OpenFlow ports of all interfaces of its Port row: more than one in a bond
    mates    those of `members` that are ports of ours
    slb      the Port row is a bond in mode balance-slb
    snoops   the bridge sends multicast only where it was asked for
    hindered the reason why the bridge passes no frames of the port yet (spanning tree), or ""
    """

    name: str
    bridge: str
    ofport: int | None
    mode: str
    path: str
    queues: int
    settings: PortSettings
    userspace: bool
    attached_mac: str
    vlan: PortVlan = ALL_VLANS
    announce: Policy = policy.DEFAULT
    addresses: tuple[Station, ...] = ()
    warning: str = ""
    ovn: bool = False
    socket_owner: str = ""
    troubles: Mapping[Trouble, str] = field(default_factory=dict)
    members: tuple[int, ...] = ()
    mates: tuple[int, ...] = ()
    slb: bool = False
    hindered: str = ""
    snoops: bool = False


def is_ours(interface: Any) -> bool:
    """Whether an Interface row asks for one of our ports."""
    return interface.type == "" and (
        PATH_OPTION in interface.options
        or PATH_KEY in interface.external_ids
        or MODE_KEY in interface.external_ids
    )


def parse(
    interface: Any,
    port: Any,
    bridge: Any,
    switch: Switch,
    formats: Collection[str] = (),
) -> PortSpec:
    """The port that a row of ours asks for; raises RowError.

    `formats` are the announcements that users installed.
    """
    name = _name(interface.name)
    keys = interface.external_ids
    mode = _mode(keys.get(MODE_KEY, "client"))
    path = _path(mode, _given_path(interface), name, switch)
    announce, given, warnings = _announce(keys, formats, switch.announce)
    settings, mistaken, not_taken = settings_rows.parse(interface, bridge, switch, announce)
    troubles = [
        (Trouble.CANNOT_CARRY, uncarried(interface, bridge)),
        (Trouble.MTU_NOT_TAKEN, not_taken),
    ]
    return PortSpec(
        name=name,
        bridge=_bridge(bridge.name),
        ofport=next((n for n in interface.ofport if n > 0), None),
        mode=mode,
        path=path,
        queues=_queues(keys.get(QUEUES_KEY)),
        settings=settings,
        vlan=port_rows.parse_vlan(port),
        userspace=bridge.datapath_type == USERSPACE,
        announce=announce,
        addresses=given,
        attached_mac=keys.get(MAC_KEY, ""),
        warning="; ".join(warnings + mistaken),
        ovn=keys.get("ovn-installed") == "true",
        socket_owner=keys.get(OWNER_KEY, ""),
        troubles={name: text for name, text in troubles if text},
        members=port_rows.numbers(port.interfaces),
        mates=port_rows.numbers(filter(is_ours, port.interfaces)),
        slb=port_rows.is_slb(port),
        hindered=port_rows.hindered(port),
        snoops=bool(bridge.mcast_snooping_enable),
    )


def _name(name: str) -> str:
    if len(name.encode()) > _NAME_MAX:
        raise RowError(
            RowErrorName.NAME_TOO_LONG,
            f"a tap's name has at most {_NAME_MAX} bytes; add the port under a shorter name",
        )
    if not _NAME.fullmatch(name) or _NAME_REFUSED.search(name) or name in _NAMES_RESERVED:
        raise RowError(
            RowErrorName.NAME_INVALID,
            "no network interface may have this name; "
            "use letters, digits and '.', '_', '-' (not 'all' or 'default')",
        )
    return name


def _bridge(name: str) -> str:
    # The name is part of the bridge's socket, of commands to the switch and of displayed text.
    if not name.isprintable():
        raise RowError(
            RowErrorName.BRIDGE_NAME_INVALID, "the bridge's name has characters not printable"
        )
    return name


def _mode(mode: str) -> str:
    if mode not in ("client", "server"):
        raise RowError(
            RowErrorName.MODE_UNKNOWN, f"set external_ids:{MODE_KEY} to 'client' or 'server'"
        )
    return mode


def _given_path(interface: Any) -> str | None:
    key: str | None = interface.external_ids.get(PATH_KEY)
    option: str | None = interface.options.get(PATH_OPTION)
    if key is not None and option is not None and key != option:
        raise RowError(
            RowErrorName.PATH_UNEXPECTED,
            f"two paths are given; remove external_ids:{PATH_KEY} or options:{PATH_OPTION}",
        )
    return option if key is None else key


def _path(mode: str, given: str | None, name: str, switch: Switch) -> str:
    if mode == "server":
        if given is not None:
            raise RowError(
                RowErrorName.PATH_UNEXPECTED,
                f"in server mode the socket is <vhost-sock-dir>/{name}; "
                f"remove external_ids:{PATH_KEY} and options:{PATH_OPTION}",
            )
        path = _server_path(name, switch)
    elif not given:
        raise RowError(
            RowErrorName.PATH_MISSING,
            f"set options:{PATH_OPTION} to the socket on which the VM's vhost-user NIC listens",
        )
    else:
        path = given
    if not path.startswith("/"):
        raise RowError(RowErrorName.PATH_RELATIVE, f"set options:{PATH_OPTION} to an absolute path")
    if not path.isprintable():
        raise RowError(RowErrorName.PATH_INVALID, "the socket's path has characters not printable")
    longest = max(len(part.encode()) for part in path.split("/"))
    if len(path.encode()) > _PATH_MAX or longest > _FILE_NAME_MAX:
        raise RowError(
            RowErrorName.PATH_TOO_LONG,
            f"a path has at most {_PATH_MAX} bytes, and each name in it {_FILE_NAME_MAX}",
        )
    return path


def _server_path(name: str, switch: Switch) -> str:
    # As in OVS, the directory is always inside the run directory.
    directory = PurePosixPath(switch.sock_dir.lstrip("/"))
    if ".." in directory.parts:
        raise RowError(
            RowErrorName.SOCK_DIR_INVALID,
            "set Open_vSwitch other_config:vhost-sock-dir to a directory without '..'",
        )
    return str(PurePosixPath(switch.rundir) / directory / name)


def _queues(text: str | None) -> int:
    # By default the most possible, on every host: a VM that has more queues than its port offers
    # does not start there, nor migrate there.
    if text is None:
        return MAX_QUEUES
    if not re.fullmatch(r"[0-9]{1,3}", text, re.ASCII) or not 1 <= int(text) <= MAX_QUEUES:
        raise RowError(
            RowErrorName.QUEUES_INVALID, f"set external_ids:{QUEUES_KEY} to 1 to {MAX_QUEUES}"
        )
    return int(text)


def _announce(
    keys: Mapping[str, str], formats: Collection[str], default: Policy
) -> tuple[Policy, tuple[Station, ...], list[str]]:
    """The policy, the addresses, and the faults found; a wrong value is replaced by its default."""
    announce = default
    given: tuple[Station, ...] = ()
    warnings = []
    if (mac := keys.get(MAC_KEY, "")) and parse_mac(mac) is None:
        warnings.append(f"attached-mac-invalid: external_ids:{MAC_KEY}: write 52:54:00:12:34:56")
    try:
        announce = policy.parse(keys.get(ANNOUNCE_KEY, ""), formats, default)
    except PolicyError as error:
        warnings.append(f"{error.name}: external_ids:{ANNOUNCE_KEY}: {error.text}")
    try:
        given = addresses.parse(keys.get(ADDRESSES_KEY, ""))
    except AddressError as error:
        warnings.append(f"{error.name}: external_ids:{ADDRESSES_KEY}: {error.text}")
    return announce, given, warnings
