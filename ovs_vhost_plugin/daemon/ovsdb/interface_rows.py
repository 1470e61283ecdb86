# SPDX-License-Identifier: Apache-2.0
"""Rows of the database → what a port is to be, or a named error. Pure.

Rows are whatever has the columns as attributes: the Idl's, or a test's.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

import netaddr

from ovs_vhost_plugin.announce import addresses, policy
from ovs_vhost_plugin.announce.addresses import AddressError
from ovs_vhost_plugin.announce.policy import Policy, PolicyError
from ovs_vhost_plugin.common.named import NamedError
from ovs_vhost_plugin.daemon.ovsdb import port_rows
from ovs_vhost_plugin.daemon.ovsdb.carriage import (
    USERSPACE,
    Offloads,
    Trouble,
    finishes,
    offered_mtu,
    uncarried,
)
from ovs_vhost_plugin.daemon.ovsdb.tunnels import lead_into_tunnels, version_of
from ovs_vhost_plugin.daemon.sockets.sockpolicy import OWNER_KEY
from ovs_vhost_plugin.net.station import Station
from ovs_vhost_plugin.net.vlan import ALL_VLANS, PortVlan
from ovs_vhost_plugin.vhost import withheld
from ovs_vhost_plugin.vhost.withheld import NOTHING, Withheld

PATH_KEY = "vhost-server-path"
MODE_KEY = "vhost-user-mode"
QUEUES_KEY = "vhost-user-queues"
ANNOUNCE_KEY = "vhost-user-announce"
MAC_KEY = "attached-mac"
"""Not ours: as libvirt, OVN and Open vSwitch's integration guide have it."""
ADDRESSES_KEY = "vhost-user-addresses"
CONFIG_KEY = "vhost-user-config"
POSTCOPY_KEY = "vhost-user-postcopy"
MEMORY_KEY = "vhost-user-memory-files"
FEATURES_OFF_KEY = "vhost-user-features-off"
OFFLOADS_KEY = "vhost-user-offloads"
ANY_MEMORY = "any"
"""Of MEMORY_KEY: the one value that it can have."""
STATE_KEY = "vhost-user-device-state"
"""Of Open_vSwitch:other_config: the default of all ports' `state=` in ANNOUNCE_KEY."""

MAX_QUEUES = 128
"""Most queue pairs: a tap has at most 256 queues, and 2 x 128 vrings fit vhost-user's index."""

_NAME_MAX = 15  # IFNAMSIZ with its terminator is 16
_PATH_MAX, _FILE_NAME_MAX = 4095, 255  # bytes, linux/limits.h less the terminator
_MTU_MIN, _MTU_MAX = 68, 65535  # virtio 1.2, 5.1.4.1: from 68; VIRTIO_NET_F_MTU's field is 16 bits

# What the kernel takes as a name (dev_valid_name), less '%', by which TUNSETIFF makes up names,
# and less all that is not printable.
_NAME = re.compile(r"[!-~]+")
_NAME_REFUSED = re.compile(r"[/:%]")
# Directories under /proc/sys/net/ipv6/conf that are no interfaces, and links to a directory.
_NAMES_RESERVED = frozenset({"all", "default", ".", ".."})


class RowErrorName(StrEnum):
    """What can be wrong with a row."""

    NAME_TOO_LONG = "name-too-long"
    NAME_INVALID = "name-invalid"
    MODE_UNKNOWN = "mode-unknown"
    PATH_MISSING = "path-missing"
    PATH_UNEXPECTED = "path-unexpected"
    PATH_RELATIVE = "path-relative"
    PATH_INVALID = "path-invalid"
    PATH_TOO_LONG = "path-too-long"
    PATH_IN_USE = "path-in-use"
    SOCK_DIR_INVALID = "sock-dir-invalid"
    QUEUES_INVALID = "queues-invalid"
    MTU_OUT_OF_RANGE = "mtu-out-of-range"
    BRIDGE_NAME_INVALID = "bridge-name-invalid"


class RowError(NamedError):
    """A row that makes no port: the name is for programs, the text says what to do."""


@dataclass(frozen=True, slots=True)
class Switch:
    """What the Open_vSwitch row says of all ports.

    rundir      where ovs-vswitchd has its sockets
    sock_dir    other_config:vhost-sock-dir, relative to `rundir`
    takes_offloads  userspace bridges take partial checksums and GSO frames
    into_tunnels  names of bridges that lead into tunnels which take none
    iface_types interface types that ovs-vswitchd has, empty until it has said so, and those that
                we have added (`adoption`)
    announce    how guests are announced whose rows do not say
    """

    rundir: str
    sock_dir: str
    takes_offloads: bool
    iface_types: frozenset[str]
    into_tunnels: frozenset[str] = frozenset()
    announce: Policy = policy.DEFAULT


@dataclass(frozen=True, slots=True)
class PortSpec:
    """What a row asks for.

    ofport   OpenFlow port, None until ovs-vswitchd has given one
    mode     "client": the front-end listens on `path`; "server": we do
    queues   most queue pairs offered
    mtu      bytes that the tap has, None when none are requested
    vlan     how the port treats VLANs
    userspace  the bridge is ovs-vswitchd's own, not the kernel's
    finish_offloads  the bridge, or what it leads to, takes no unfinished checksums and GSO frames
    announce   how the guest is announced
    addresses  what automation says that the guest uses
    slip     what is wrong with a key that the port works without, as name and text; "" for nothing
    learns   the bridge begins as a learning switch, and not with an empty pipeline
    ovn      ovn-controller has bound the port and made its flows
    config   front-ends are offered the NIC's configuration space
    link_up  nobody has taken the port down
    postcopy  front-ends are trusted with a userfaultfd of their worker
    any_memory  guest memory may be in files of any kind, and not in memory alone
    withheld  what front-ends are not offered
    socket_owner  the only user whose socket `path` may be, by name or number; "": not said
    troubles  what is wrong by ovs-vswitchd's word, as text: for now, or for good
    members  the OpenFlow ports of all interfaces of its Port row: more than one in a bond
    mates    those of them that are ports of ours
    slb      that is a bond in mode balance-slb
    snoops   the bridge sends multicast only where it was asked for
    hindered why the bridge passes no frames of the port yet (spanning tree), "" if it does
    """

    name: str
    bridge: str
    ofport: int | None
    mode: str
    path: str
    queues: int
    mtu: int | None
    userspace: bool
    finish_offloads: bool
    attached_mac: str
    vlan: PortVlan = ALL_VLANS
    announce: Policy = policy.DEFAULT
    addresses: tuple[Station, ...] = ()
    slip: str = ""
    learns: bool = True
    ovn: bool = False
    config: bool = False
    link_up: bool = True
    postcopy: bool = False
    any_memory: bool = False
    withheld: Withheld = NOTHING
    socket_owner: str = ""
    troubles: Mapping[Trouble, str] = field(default_factory=dict)
    members: tuple[int, ...] = ()
    mates: tuple[int, ...] = ()
    slb: bool = False
    hindered: str = ""
    snoops: bool = False

    @property
    def holds(self) -> bool:
        """Whether frames for a guest that migrates away are held and forwarded."""
        return self.learns and self.announce.hold


def parse_switch(row: Any, rundir: str) -> Switch:
    """Read the Open_vSwitch row. `rundir` counts where external_ids:rundir says nothing better."""
    named = row.external_ids.get("rundir", "")
    return Switch(
        rundir=named if named.startswith("/") else rundir,
        sock_dir=row.other_config.get("vhost-sock-dir", ""),
        takes_offloads=_true(row.other_config.get("userspace-tso-enable")),
        iface_types=frozenset(row.iface_types),
        into_tunnels=lead_into_tunnels(row.bridges, version_of(next(iter(row.ovs_version), ""))),
        announce=Policy(state=_true(row.other_config.get(STATE_KEY))),
    )


def is_ours(interface: Any) -> bool:
    """Whether an Interface row asks for one of our ports."""
    return interface.type == "" and (
        PATH_KEY in interface.options or MODE_KEY in interface.external_ids
    )


def parse(
    interface: Any,
    port: Any,
    bridge: Any,
    switch: Switch,
    formats: Collection[str] = (),
) -> PortSpec:
    """What a row of ours asks for; raises RowError.

    `formats` are the announcements that users installed.
    """
    name = _name(interface.name)
    keys = interface.external_ids
    mode = _mode(keys.get(MODE_KEY, "client"))
    path = _path(mode, interface.options.get(PATH_KEY), name, switch)
    announce, given, slips = _announce(keys, formats, switch.announce)
    off, mistaken = withheld.parse(keys.get(FEATURES_OFF_KEY, ""))
    slips += [f"{error.name}: external_ids:{FEATURES_OFF_KEY}: {error.text}" for error in mistaken]
    mtu, not_taken = _mtu(interface)
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
        mtu=mtu,
        vlan=port_rows.parse_vlan(port),
        userspace=bridge.datapath_type == USERSPACE,
        finish_offloads=finishes(
            keys.get(OFFLOADS_KEY, Offloads.AUTO),
            bridge,
            takes_offloads=switch.takes_offloads,
            into_tunnels=switch.into_tunnels,
        ),
        announce=announce,
        addresses=given,
        attached_mac=keys.get(MAC_KEY, ""),
        slip="; ".join(slips),
        learns=list(bridge.fail_mode) != ["secure"],
        ovn=keys.get("ovn-installed") == "true",
        config=_true(keys.get(CONFIG_KEY)),
        link_up=list(interface.admin_state) != ["down"],
        postcopy=_true(keys.get(POSTCOPY_KEY)),
        any_memory=keys.get(MEMORY_KEY) == ANY_MEMORY,
        withheld=off,
        socket_owner=keys.get(OWNER_KEY, ""),
        troubles={name: text for name, text in troubles if text},
        members=port_rows.numbers(port.interfaces),
        mates=port_rows.numbers(filter(is_ours, port.interfaces)),
        slb=port_rows.is_slb(port),
        hindered=port_rows.hindered(port),
        snoops=bool(bridge.mcast_snooping_enable),
    )


def parse_mac(text: str) -> bytes | None:
    """Six bytes of any usual spelling, None if it is none."""
    if not netaddr.valid_mac(text):
        return None
    packed: bytes = netaddr.EUI(text, version=48).packed
    return packed


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
    # It names the bridge's socket, and stands in commands to the switch and in what is shown.
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


def _path(mode: str, given: str | None, name: str, switch: Switch) -> str:
    if mode == "server":
        if given is not None:
            raise RowError(
                RowErrorName.PATH_UNEXPECTED,
                f"in server mode the socket is <vhost-sock-dir>/{name}; remove options:{PATH_KEY}",
            )
        path = _server_path(name, switch)
    elif not given:
        raise RowError(
            RowErrorName.PATH_MISSING,
            f"set options:{PATH_KEY} to the socket on which the VM's vhost-user NIC listens",
        )
    else:
        path = given
    if not path.startswith("/"):
        raise RowError(RowErrorName.PATH_RELATIVE, f"set options:{PATH_KEY} to an absolute path")
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
    # As in OVS, the directory is inside the run directory, and stays there.
    directory = PurePosixPath(switch.sock_dir.lstrip("/"))
    if ".." in directory.parts:
        raise RowError(
            RowErrorName.SOCK_DIR_INVALID,
            "set Open_vSwitch other_config:vhost-sock-dir to a directory without '..'",
        )
    return str(PurePosixPath(switch.rundir) / directory / name)


def _queues(text: str | None) -> int:
    # By default as many as there can be, on every host: a VM that has been given more than its port
    # offers does not start, nor move there.
    if text is None:
        return MAX_QUEUES
    if not re.fullmatch(r"[0-9]{1,3}", text, re.ASCII) or not 1 <= int(text) <= MAX_QUEUES:
        raise RowError(
            RowErrorName.QUEUES_INVALID, f"set external_ids:{QUEUES_KEY} to 1 to {MAX_QUEUES}"
        )
    return int(text)


def _mtu(interface: Any) -> tuple[int | None, str]:
    """The MTU to offer, and what is wrong with the one that is asked for."""
    if not interface.mtu_request:
        return None, ""
    request = int(interface.mtu_request[0])
    if not _MTU_MIN <= request <= _MTU_MAX:
        raise RowError(
            RowErrorName.MTU_OUT_OF_RANGE, f"set mtu_request to {_MTU_MIN} to {_MTU_MAX}"
        )
    return offered_mtu(request, interface)


def _announce(
    keys: Mapping[str, str], formats: Collection[str], default: Policy
) -> tuple[Policy, tuple[Station, ...], list[str]]:
    """The policy and the addresses; for what is wrong its default, and what is wrong with it."""
    announce = default
    given: tuple[Station, ...] = ()
    slips = []
    if (mac := keys.get(MAC_KEY, "")) and parse_mac(mac) is None:
        slips.append(f"attached-mac-invalid: external_ids:{MAC_KEY}: write 52:54:00:12:34:56")
    try:
        announce = policy.parse(keys.get(ANNOUNCE_KEY, ""), formats, default)
    except PolicyError as error:
        slips.append(f"{error.name}: external_ids:{ANNOUNCE_KEY}: {error.text}")
    try:
        given = addresses.parse(keys.get(ADDRESSES_KEY, ""))
    except AddressError as error:
        slips.append(f"{error.name}: external_ids:{ADDRESSES_KEY}: {error.text}")
    if keys.get(MEMORY_KEY, ANY_MEMORY) != ANY_MEMORY:
        slips.append(f"memory-files-unknown: external_ids:{MEMORY_KEY}: only 'any' can be set")
    if keys.get(OFFLOADS_KEY, Offloads.AUTO) not in list(Offloads):
        words = ", ".join(Offloads)
        slips.append(f"offloads-unknown: external_ids:{OFFLOADS_KEY}: one of {words}")
    return announce, given, slips


def _true(text: str | None) -> bool:
    return text is not None and text.lower() == "true"  # as smap_get_bool()
