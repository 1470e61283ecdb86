# SPDX-License-Identifier: Apache-2.0
"""A worker's reports to the daemon, checked once and then carried in types.

A worker faces a guest. A worker that was taken over must not reach more in the daemon than its own
port's status: unknown words, wrong types and control characters end here.

To add a report: declare it here, add it to `Report`, and give it a rate in `RATES` unless it is an
answer. The type checker says where the daemon has to handle it (`daemon/workers/link.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from ovs_vhost_plugin.ipc.channel import HELD_BATCH_FRAMES
from ovs_vhost_plugin.ipc.codec import (
    Base64,
    Codec,
    Count,
    Line,
    MessageError,
    Messages,
    Most,
    Seconds,
    Text,
    printable,
)
from ovs_vhost_plugin.ipc.commands import (
    KNOWN_AT_FIRST,
    PROTOCOL,
    GetStats,
    HandOver,
    Release,
    RequestId,
)
from ovs_vhost_plugin.ipc.spec import WorkerSpec
from ovs_vhost_plugin.ipc.stations import Key, Mac, StationCodec
from ovs_vhost_plugin.net.station import Station

_STATS_DEPTH = 5
_STATIONS_MAX = 64  # as many as an honest worker keeps
_PAIRS_MAX, _COUNTERS_MAX = 128, 64

Counted = Annotated[int, Count(1 << 64)]
Features = Annotated[str, Text(18, "(0x[0-9a-f]{1,16})?")]


class Statistics(Codec):
    """All counters, as plain JSON, in the form that is shown.

    "queue_pairs", a dict of counters for each pair, travels as a table, {names, values}, so that
    128 of them fit into a packet.
    """

    def encode(self, value: dict[str, Any]) -> dict[str, Any]:
        """The object with the table."""
        pairs = value.get("queue_pairs")
        if not pairs:
            return value
        names = list(pairs[0])
        rows = [[pair[name] for name in names] for pair in pairs]
        return {**value, "queue_pairs": {"names": names, "values": rows}}

    def decode(self, value: object) -> dict[str, Any]:
        """Check the object and make its text printable."""
        if not isinstance(value, dict):
            raise MessageError("no object")
        cleaned = {printable(str(k), 60): _plain(v, _STATS_DEPTH - 1) for k, v in value.items()}
        if "queue_pairs" in cleaned:
            cleaned["queue_pairs"] = _pairs(cleaned["queue_pairs"])
        if not all(isinstance(cleaned.get(key, {}), dict) for key in ("errors", "faults", "hold")):
            raise MessageError("no errors, faults or hold")
        addresses = cleaned.get("addresses", [])
        if not isinstance(addresses, list) or len(addresses) > _STATIONS_MAX:
            raise MessageError("no addresses")
        for one in addresses:
            StationCodec().decode(one)
        return cleaned


# -- the reports ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkerHello:
    """A worker presents itself: its release, for people to read, and its spec.

    queues    the number of its tap's queues that it has; 0: all
    protocol  the version that it speaks
    oldest    the oldest version of a daemon that understands all that matters
    build     the code that it runs (`common/build.py`); "": unknown
    commands  the names of the commands that it knows
    """

    WIRE_NAME: ClassVar = "hello"
    version: Annotated[str, Line()]
    spec: WorkerSpec
    queues: Annotated[int, Count(128)] = 0
    protocol: Annotated[int, Count(1 << 16)] = PROTOCOL
    oldest: Annotated[int, Count(1 << 16)] = 0
    build: Annotated[str, Line(80)] = ""
    commands: Annotated[tuple[Annotated[str, Line(40)], ...], Most(128)] = KNOWN_AT_FIRST

    @property
    def tap_queues(self) -> int:
        """The number of its tap's queues that it has; a worker of version 2 has all."""
        return self.queues or self.spec.queues


@dataclass(frozen=True, slots=True)
class PortState:
    """A snapshot of the port, sent whole at every transition.

    status    "connecting", "listening", "connected" or "running"
    features, protocol_features  acknowledged, as "0x..."; "" without a front-end
    vring_sizes  of the vrings that have a size, `num_vrings` of them
    mtu       the MTU from the front-end, in bytes
    error, error_detail  the last error that counts, "" for none; `errors`: the number of errors
    """

    WIRE_NAME: ClassVar = "state"
    status: Annotated[str, Text(10, "connecting|listening|connected|running")]
    socket: Annotated[str, Line()] = ""
    features: Features = ""
    protocol_features: Features = ""
    num_vrings: Annotated[int, Count(256)] = 0
    vring_sizes: Annotated[tuple[Annotated[int, Count(1 << 16)], ...], Most(256)] = ()
    mtu: Annotated[int, Count(1 << 16)] | None = None
    error: Annotated[str, Line(60)] = ""
    error_detail: Annotated[str, Line()] = ""
    errors: Counted = 0

    @property
    def error_text(self) -> str:
        """Name and detail in one line, "" for no error."""
        return f"{self.error}: {self.error_detail}" if self.error_detail else self.error

    def has(self, mask: int) -> bool:
        """Whether a feature was acknowledged."""
        return bool(int(self.features or "0", 16) & mask)


@dataclass(frozen=True, slots=True)
class Rarp:
    """The front-end sent SEND_RARP for `mac` at CLOCK_MONOTONIC second `at`."""

    WIRE_NAME: ClassVar = "rarp"
    mac: Annotated[bytes, Mac()]
    at: Annotated[float, Seconds()]


@dataclass(frozen=True, slots=True)
class Started:
    """Rings began to run; with `base` above zero their guest has used them before.

    `sent` counts the frames that the worker had taken from guests before. `moved_in`: the
    front-end has brought the guest's state from another host. `further`: an earlier report said
    that the rings began at zero, and one more has begun, at `base`. `at`: when, CLOCK_MONOTONIC
    seconds; 0: a worker of before version 4 does not tell.
    """

    WIRE_NAME: ClassVar = "started"
    base: Annotated[int, Count(1 << 32)]
    sent: Counted = 0
    moved_in: bool = False
    further: bool = False
    at: Annotated[float, Seconds()] = 0.0


@dataclass(frozen=True, slots=True)
class FirstReceived:
    """The guest has received its first frame since `Started`, at CLOCK_MONOTONIC second `at`."""

    WIRE_NAME: ClassVar = "first-received"
    at: Annotated[float, Seconds()]


@dataclass(frozen=True, slots=True)
class AskConnection:
    """The worker asks the daemon to connect it to its port's socket."""

    WIRE_NAME: ClassVar = "connect"


@dataclass(frozen=True, slots=True)
class AskQueues:
    """The worker asks for queues of its tap, `queues` in all: the answers are `GiveQueue`."""

    WIRE_NAME: ClassVar = "queues"
    queues: Annotated[int, Count(128, least=2)]


@dataclass(frozen=True, slots=True)
class AskUserfaultfd:
    """The worker asks for /dev/userfaultfd, to offer its front-end postcopy."""

    WIRE_NAME: ClassVar = "userfaultfd"


@dataclass(frozen=True, slots=True)
class Stats:
    """The answer to `GetStats` with this id."""

    WIRE_NAME: ClassVar = "stats"
    id: RequestId
    stats: Annotated[dict[str, Any], Statistics()]


@dataclass(frozen=True, slots=True)
class GuestStations:
    """All stations that the guest uses now, learned from its own frames."""

    WIRE_NAME: ClassVar = "stations"
    stations: Annotated[tuple[Annotated[Station, StationCodec()], ...], Most(_STATIONS_MAX)]


@dataclass(frozen=True, slots=True)
class HoldState:
    """The hold number `hold`: its stations, or, once it is over, the fate of its frames.

    stations  with the VLAN tags of the frames
    sighted   frames that came to the port from one of the stations, which is elsewhere now
    since     when the hold began, as the guest's last receive ring stopped, CLOCK_MONOTONIC
              seconds; 0: a worker of before version 4 does not tell
    """

    WIRE_NAME: ClassVar = "holding"
    hold: Annotated[int, Count(1 << 53)]
    active: bool
    stations: Annotated[tuple[Key, ...], Most(_STATIONS_MAX)]
    counts: Annotated[dict[str, Annotated[int, Count(1 << 53)]], Most(32)]
    sighted: Annotated[int, Count(1 << 53)] = 0
    since: Annotated[float, Seconds()] = 0.0


@dataclass(frozen=True, slots=True)
class HeldFrames:
    """The answer to `Release` with this id: frames, oldest first; `left`: there are more."""

    WIRE_NAME: ClassVar = "held"
    id: RequestId
    frames: Annotated[tuple[Annotated[bytes, Base64()], ...], Most(HELD_BATCH_FRAMES)]
    left: bool


@dataclass(frozen=True, slots=True)
class HandedOver:
    """The answer to `HandOver` with this id.

    outcome  "done": the port is the successor's, and this worker ends once its daemon leaves it;
             "busy": not now, `why` says with what; "failed": the successor could not, for `why`
    """

    WIRE_NAME: ClassVar = "handed-over"
    id: RequestId
    outcome: Annotated[str, Text(6, "done|busy|failed")]
    why: Annotated[str, Line()] = ""


Report = (
    WorkerHello
    | PortState
    | Rarp
    | Started
    | FirstReceived
    | AskConnection
    | AskQueues
    | AskUserfaultfd
    | Stats
    | GuestStations
    | HoldState
    | HeldFrames
    | HandedOver
)

RATES: dict[type[Report], tuple[float, int]] = {
    # reports a second, reports at once
    PortState: (4.0, 40),
    Started: (20.0, 80),
    FirstReceived: (20.0, 80),
    Rarp: (20.0, 40),
    GuestStations: (10.0, 40),
    HoldState: (10.0, 40),
    AskConnection: (20.0, 40),
    AskQueues: (20.0, 40),
    AskUserfaultfd: (2.0, 10),
}
"""The rates at which the daemon takes a worker's reports (`daemon/workers/report_rates.py`).

An honest worker keeps to half of them, whatever its guest and front-end do (`worker/outbox.py`).
"""

OTHERS = 20.0, 80
"""The rate of reports whose kind is not known here, which workers of later releases may send."""

ANSWERS: dict[type[Report], type[GetStats | Release | HandOver]] = {
    Stats: GetStats,
    HeldFrames: Release,
    HandedOver: HandOver,
}
"""The reports that answer a command, each with its command."""

_MESSAGES: Messages[Report] = Messages("event", Report)


def encode(report: Report) -> dict[str, Any]:
    """A report as a JSON object."""
    return _MESSAGES.encode(report)


def kind_of(said: dict[str, Any]) -> type[Report]:
    """The report that an object claims to be. Raises UnknownKindError, or MessageError."""
    return _MESSAGES.kind_of(said)


def decode(said: dict[str, Any]) -> Report:
    """Check a report. Raises MessageError."""
    return _MESSAGES.decode(said)


def _plain(value: object, depth: int) -> Any:
    if depth == 0:
        raise MessageError("nested too deep")
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(str(k), 60): _plain(v, depth - 1) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v, depth - 1) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise MessageError("no number")
    if isinstance(value, int) and abs(value) >= 1 << 64:
        raise MessageError("no count")  # Python has larger numbers, but would not print them
    return value


def _pairs(table: object) -> list[dict[str, int]]:
    """The counters of each queue pair by name."""
    match table:
        case {"names": list() as names, "values": list() as rows}:
            if len(names) > _COUNTERS_MAX or not all(isinstance(name, str) for name in names):
                raise MessageError("no names of counters")
            if len(rows) > _PAIRS_MAX or any(
                not isinstance(row, list) or len(row) != len(names) for row in rows
            ):
                raise MessageError("no counters")
            count = Count(1 << 64)
            return [dict(zip(names, map(count.decode, row), strict=True)) for row in rows]
    raise MessageError("no queue pairs")
