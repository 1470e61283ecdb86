# SPDX-License-Identifier: Apache-2.0
"""What the announcer has done for it. Each action is answered, whatever becomes of it."""

from __future__ import annotations

from dataclasses import dataclass

from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.openflow.wire import Output


@dataclass(frozen=True, slots=True)
class PacketOut:
    """Send `frames` as if they came from `location`; answer with `delivered` or `failed`."""

    token: int
    location: Location
    frames: tuple[bytes, ...]
    output: Output


@dataclass(frozen=True, slots=True)
class Inject:
    """Have the worker of `port` write `frames` into its tap; answer as for a PacketOut."""

    token: int
    port: str
    frames: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class AskTable:
    """Read the MAC table of `bridge`; answer with `table` or `no_table`."""

    bridge: str


@dataclass(frozen=True, slots=True)
class AskTrace:
    """Ask where `bridge` sends the frame `flow`; answer with `trace` or `no_trace`.

    `frame` is the whole of it, where `flow` says only where it comes from.
    """

    token: int
    bridge: str
    flow: str
    frame: bytes = b""


Action = PacketOut | Inject | AskTable | AskTrace
