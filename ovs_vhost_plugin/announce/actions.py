# SPDX-License-Identifier: Apache-2.0
"""The actions that `Guests` and `Announcer` ask for; `match` them to the end (`assert_never`)."""

from __future__ import annotations

from dataclasses import dataclass

from ovs_vhost_plugin.announce.announcement import Request
from ovs_vhost_plugin.announce.guests.elsewhere import Look
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import StationKey
from ovs_vhost_plugin.openflow.wire import Output


@dataclass(frozen=True, slots=True)
class PacketOut:
    """Send `frames` as if they came from `location`; answer with `delivered` or `failed`."""

    token: int
    location: Location
    frames: tuple[bytes, ...]
    output: Output


@dataclass(frozen=True, slots=True)
class InjectFrames:
    """Write `frames` into the tap of `port`, by its worker; answer as for a PacketOut."""

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


@dataclass(frozen=True, slots=True)
class AskRevalidator:
    """Wait until the switch has next revalidated its cached flows; answer with `revalidated`."""


@dataclass(frozen=True, slots=True)
class TellBridge:
    """Teach `bridge` by `frame`, come by `flow`, which goes nowhere; answer with `told`."""

    number: int
    bridge: str
    flow: str
    frame: bytes


@dataclass(frozen=True, slots=True)
class WakeSwitch:
    """Wake the switch's main loop. The one action without an answer."""


AnnouncerAction = (
    PacketOut | InjectFrames | AskTable | AskTrace | AskRevalidator | TellBridge | WakeSwitch
)
"""Of the announcer. Each with a question is answered, whatever becomes of it."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Request an announcement; with a `refusal`, only tell that it is not made, and why."""

    request: Request
    refusal: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take back the announcements of `port` that are under way: its guest has stopped.

    macs  of that guest, as far as the port may announce them
    """

    port: str
    reason: str
    macs: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Query:
    """Send frames to the guest of `port` and to nobody else."""

    port: str
    frames: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class FindMoved:
    """Read the MAC table of the bridge of `look.place`; answer with `table`."""

    look: Look


@dataclass(frozen=True, slots=True)
class TellMoved:
    """Tell the worker of `port` that others have these stations now."""

    port: str
    stations: tuple[StationKey, ...]


@dataclass(frozen=True, slots=True)
class AskSent:
    """Ask the worker of `port` for its counters; answer with `counted`, or `no_worker`."""

    port: str
    request: int


@dataclass(frozen=True, slots=True)
class NothingKnown:
    """The guest of `port` was to be announced for `trigger`, and no address of it is known."""

    port: str
    trigger: str


GuestAction = Announce | Withdraw | Query | FindMoved | TellMoved | AskSent | NothingKnown
"""Of the guests."""
