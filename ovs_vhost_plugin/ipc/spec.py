# SPDX-License-Identifier: Apache-2.0
"""A worker's spec and settings, and the fds that it is born with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ovs_vhost_plugin.common.uring import Uring
from ovs_vhost_plugin.ipc.codec import Count, Hex, Text
from ovs_vhost_plugin.vhost.fds import closing

JOURNAL_BYTES = 16 * 1024
"""Bytes for each vring in a port's journal file (`worker/recovery/journal.py`)."""

WORKER_UIDS = range(0x70000000, 0x7FFFFFFF)
"""The user ids of workers, one for each; nobody else uses them (systemd's UIDS-GIDS)."""

FeatureMask = Annotated[int, Count((1 << 64) - 1)]


@dataclass(frozen=True, slots=True)
class PortSettings:
    """The settings of a port that may change while its worker runs; sent whole.

    To add a setting: declare it here, read it from the row in `daemon/ovsdb/settings_rows.py`, and
    use it where it matters.

    mtu             offered to the guest (bytes), None: not offered
    finish_offloads the bridge takes no partial checksums and no GSO frames: finish them here
    finish_udp      the bridge takes no large frames of UDP: finish those here in any case
    hold            keep frames for a guest that migrates away, for the daemon to forward
    state           offer the front-end to move the device's state; from the next connection on
    config          offer the NIC's configuration space; from the next connection on
    mac             the MAC in the configuration space; b"": unknown
    link_up         the link state in the configuration space
    postcopy        offer PAGEFAULT: a userfaultfd, which reaches all of the worker's memory
    any_memory      take guest memory from files of any kind, not only from files in memory
    features_off, protocol_features_off  masks of bits not offered; from the next connection on
    """

    mtu: Annotated[int, Count(65535)] | None = None
    finish_offloads: bool = False
    finish_udp: bool = True
    hold: bool = False
    state: bool = False
    config: bool = False
    mac: Annotated[bytes, Hex(6)] = b""
    link_up: bool = True
    postcopy: bool = False
    any_memory: bool = False
    features_off: FeatureMask = 0
    protocol_features_off: FeatureMask = 0


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """A worker's identity, which never changes, and the port's settings.

    name      the port's and the tap's name
    mode      "client": the front-end listens on `path`; "server": the worker listens
    queues    the most queue pairs offered
    uid, gid  the user and group from before the first byte of a peer on; 0: no change
    """

    name: Annotated[str, Text(64)]
    mode: Annotated[str, Text(6, "client|server")]
    path: Annotated[str, Text(4096)]
    queues: Annotated[int, Count(128, least=1)]
    settings: PortSettings = field(default_factory=PortSettings)
    uid: Annotated[int, Count((1 << 32) - 1)] = 0
    gid: Annotated[int, Count((1 << 32) - 1)] = 0


@dataclass(frozen=True, slots=True)
class Inheritance:
    """The fds that a worker is born with, besides its std files.

    control   the listener for daemons
    listener  the listener for front-ends, in server mode
    tap       queue 0 of the port's tap; further ones come when they are needed
    journal   the file of the rings' journals, which only this worker writes
    urings    io_urings that write frames to the tap, for the first pairs
    """

    control: int
    listener: int | None
    tap: int
    journal: int
    urings: tuple[Uring, ...] = ()


def threads_of(queues: int) -> int:
    """The most threads of a worker: one for each of `queues` pairs, those that close, a few."""
    return queues + closing.AT_ONCE + 8
