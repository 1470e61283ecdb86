# SPDX-License-Identifier: Apache-2.0
"""The messages between a worker and its successor. Either may be of another release.

The predecessor may have been taken over by its guest, so the successor believes what it could
believe of a front-end: each field is of its type and within its bounds, each fd is looked at, and
what a front-end sets up comes as the front-end's own messages (`replay.py`).

A field that is added has a default. A release whose successors must not take over from older
workers, or the other way round, counts `FORMAT` up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from ovs_vhost_plugin.ipc.codec import Base64, Count, Hex, Line, Messages, Most, Seconds
from ovs_vhost_plugin.vhost import spec

FORMAT = 1
"""The form of all that is given."""

MOST_FDS = 160
"""Of one message: listeners, a journal, the queues of a tap."""

Counted = Annotated[int, Count(1 << 64)]
Counts = Annotated[dict[str, Counted], Most(512)]
_Mask = Annotated[int, Count((1 << 64) - 1)]
_Address = Annotated[int, Count((1 << 64) - 1)]
_Mtu = Annotated[int, Count(1 << 16)]
_Pair = Annotated[int, Count(127)]


# -- from the successor ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SuccessorReady:
    """The successor is in its sandbox and awaits all."""

    WIRE_NAME: ClassVar = "ready"
    format: Annotated[int, Count(1 << 16)] = FORMAT


@dataclass(frozen=True, slots=True)
class SuccessorPrepared:
    """All is checked and mapped, and runs as soon as `Commit` comes."""

    WIRE_NAME: ClassVar = "prepared"


@dataclass(frozen=True, slots=True)
class SuccessorRefuses:
    """The successor cannot take over, and ends."""

    WIRE_NAME: ClassVar = "refuses"
    why: Annotated[str, Line()]


FromSuccessor = SuccessorReady | SuccessorPrepared | SuccessorRefuses


# -- from the predecessor -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GivenPort:
    """All that there is without a front-end.

    Its fds: the control listener, the journal[, the front-ends' listener if `server`], and the
    tap's queues. `attached`, `carrier`, `header_size`, `takes_uso`: as `TapQueues` has them.
    """

    WIRE_NAME: ClassVar = "port"
    server: bool
    attached: Annotated[tuple[bool, ...], Most(128)]
    carrier: bool
    header_size: Annotated[int, Count(12, least=10)]
    takes_uso: bool
    connections: Counted
    rarps: Counted
    iotlb_misses: Counted
    iotlb_replaced: Counted
    errors: Counts
    error: Annotated[str, Line(60)]
    error_detail: Annotated[str, Line()]
    hold: Annotated[int, Count(1 << 53)]
    held: Counts


@dataclass(frozen=True, slots=True)
class RegionPlace:
    """The place of a memory region that was removed."""

    guest: _Address
    user: _Address
    size: _Address


@dataclass(frozen=True, slots=True)
class GivenFrontEnd:
    """The connection, which is its fd; what it was offered; and what no message sets again.

    since     when it was connected, CLOCK_MONOTONIC seconds
    offer_*   see `vhost/features.py`, Offer; the others: `vhost/state.py`, SessionState
    gone      memory regions that may be removed once more
    guest     the guest's stations (`worker/learned/savedstate.py`)
    rarp_mac  the MAC of SEND_RARP; b"": there was none
    has_run   whether a ring has run in this session
    """

    WIRE_NAME: ClassVar = "front-end"
    since: Annotated[float, Seconds()]
    offer_features: _Mask
    offer_protocol_features: _Mask
    offer_mtu: _Mtu | None
    offer_nic: bool
    offer_mac: Annotated[bytes, Hex(6)]
    offer_link_up: bool
    offer_any_memory: bool
    status: Annotated[int, Count(255)]
    needs_reset: bool
    features_refused: bool
    refused: bool
    counted_pairs: bool
    enables_unasked: bool
    link_up: bool
    mac: Annotated[bytes, Hex(6)]
    port_mtu: _Mtu
    guest_mtu: _Mtu | None
    gone: Annotated[tuple[RegionPlace, ...], Most(spec.MAX_MEM_SLOTS)]
    guest: Annotated[bytes, Base64()]
    rarp_mac: Annotated[bytes, Hex(6)]
    has_run: bool


@dataclass(frozen=True, slots=True)
class GivenRequest:
    """A message of the front-end's that sets up the session again; its fds come with it."""

    WIRE_NAME: ClassVar = "request"
    request: Annotated[int, Count(255)]
    payload: Annotated[bytes, Base64()]


@dataclass(frozen=True, slots=True)
class GivenRing:
    """Where a ring stands (`worker/device/ring.py`), and what no message says of it."""

    WIRE_NAME: ClassVar = "ring"
    index: Annotated[int, Count(255)]
    position: Annotated[int, Count((1 << 16) - 1)] | None
    began: Annotated[int, Count((1 << 16) - 1)] | None
    base: Annotated[int, Count((1 << 32) - 1)]
    base_told: bool


@dataclass(frozen=True, slots=True)
class GivenPair:
    """The counts of a queue pair, and the frame that waits for buffers (b"": none).

    `until`: when the frame is given up, in ms of CLOCK_MONOTONIC.
    """

    WIRE_NAME: ClassVar = "pair"
    index: _Pair
    used: bool
    counters: Counts
    faults: Counts
    replaced: Counted
    pending: Annotated[bytes, Base64()]
    until: Annotated[int, Count(1 << 62)]


@dataclass(frozen=True, slots=True)
class GivenBacklog:
    """More frames that a pair's guest gets before those of the tap, in order."""

    WIRE_NAME: ClassVar = "backlog"
    index: _Pair
    frames: Annotated[tuple[Annotated[bytes, Base64()], ...], Most(256)]


@dataclass(frozen=True, slots=True)
class GivenAll:
    """There is no more. The rings stand still."""

    WIRE_NAME: ClassVar = "all"


@dataclass(frozen=True, slots=True)
class Commit:
    """The port is the successor's from now on; the predecessor does nothing any more."""

    WIRE_NAME: ClassVar = "commit"


FromPredecessor = (
    GivenPort
    | GivenFrontEnd
    | GivenRequest
    | GivenRing
    | GivenPair
    | GivenBacklog
    | GivenAll
    | Commit
)

FROM_SUCCESSOR: Messages[FromSuccessor] = Messages("says", FromSuccessor)
FROM_PREDECESSOR: Messages[FromPredecessor] = Messages("says", FromPredecessor)
