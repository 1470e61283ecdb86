# SPDX-License-Identifier: Apache-2.0
"""The daemon's commands to a worker. Fds travel beside a command, as many as its class says.

To add a command: declare it here, add it to `Command`, and handle it where the type checker says
that a case is missing (`worker/worker.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, get_args

from ovs_vhost_plugin.ipc.codec import Count, Hex, Line, MessageError, Messages, Most
from ovs_vhost_plugin.ipc.spec import PortSettings
from ovs_vhost_plugin.ipc.stations import Key
from ovs_vhost_plugin.jit.capture_ring import FRAME_MAX, RX, TX

PROTOCOL = 5
"""The version of this protocol: raise it when a command or report changes, and write the change
into docs/upgrade.md. A field that is added has a default."""

OLDEST = 2
"""The oldest version that a worker may speak that an earlier daemon started."""

HELLO = 2
"""The number in a daemon's hello, which is the same for ever.

The daemon speaks first, when it does not know the worker's version. Workers of version 2 take this
hello and no other."""

RequestId = Annotated[int, Count(1 << 53, least=-(1 << 53))]
"""The id of a request, which its answer repeats."""
Keys = Annotated[tuple[Key, ...], Most(4096)]


@dataclass(frozen=True, slots=True)
class DaemonHello:
    """A daemon presents itself: its release, for people to read, and `HELLO`.

    Its fds: a pipe for reports, and the file and the alarm of the vitals (`ipc/vitals.py`).
    """

    WIRE_NAME: ClassVar = "hello"
    FDS: ClassVar = 3
    version: Annotated[str, Line(60)]
    protocol: Annotated[int, Count(HELLO, least=HELLO)] = HELLO


@dataclass(frozen=True, slots=True)
class Configure:
    """All of the port's settings from now on."""

    WIRE_NAME: ClassVar = "configure"
    FDS: ClassVar = 0
    settings: PortSettings


@dataclass(frozen=True, slots=True)
class GetStats:
    """Report the counters: the answer is `Stats` with this id."""

    WIRE_NAME: ClassVar = "stats"
    FDS: ClassVar = 0
    id: RequestId


@dataclass(frozen=True, slots=True)
class Connected:
    """The answer to `AskConnection`. Its fd: a socket connected to the front-end."""

    WIRE_NAME: ClassVar = "connected"
    FDS: ClassVar = 1


@dataclass(frozen=True, slots=True)
class GiveQueue:
    """An answer to `AskQueues`. Its fd: queue `index` of the tap, attached."""

    WIRE_NAME: ClassVar = "queue"
    FDS: ClassVar = 1
    index: Annotated[int, Count(127, least=1)]


@dataclass(frozen=True, slots=True)
class Inject:
    """Write frames into the tap as if the guest had sent them."""

    WIRE_NAME: ClassVar = "inject"
    FDS: ClassVar = 0
    frames: Annotated[tuple[Annotated[bytes, Hex(1 << 16)], ...], Most(4096)]


@dataclass(frozen=True, slots=True)
class Release:
    """Send one batch of the frames held for `stations`: the answer is `HeldFrames` with this id."""

    WIRE_NAME: ClassVar = "release"
    FDS: ClassVar = 0
    id: RequestId
    stations: Keys


@dataclass(frozen=True, slots=True)
class ForgetStations:
    """Forget these stations, which the bridge has on other ports."""

    WIRE_NAME: ClassVar = "forget-stations"
    FDS: ClassVar = 0
    stations: Keys


@dataclass(frozen=True, slots=True)
class GiveUserfaultfd:
    """The answer to `AskUserfaultfd`. Its fd: /dev/userfaultfd, open."""

    WIRE_NAME: ClassVar = "userfaultfd"
    FDS: ClassVar = 1


@dataclass(frozen=True, slots=True)
class RefuseUserfaultfd:
    """The other answer to `AskUserfaultfd`; `error` is for people to read."""

    WIRE_NAME: ClassVar = "no-userfaultfd"
    FDS: ClassVar = 0
    error: Annotated[str, Line()]


@dataclass(frozen=True, slots=True)
class HandOver:
    """Give the port to another worker: the answer is `HandedOver` with this id.

    Its fd: a socket whose other end the successor has (`worker/handover/`).
    """

    WIRE_NAME: ClassVar = "hand-over"
    FDS: ClassVar = 1
    id: RequestId


@dataclass(frozen=True, slots=True)
class CaptureFrames:
    """Record the frames of the rings from now on, in place of an earlier capture.

    Its fd: a sealed file of `capture_ring.PART` bytes for each queue pair of the port.
    directions  capture_ring.RX, TX or both
    snap        the most bytes of a frame
    """

    WIRE_NAME: ClassVar = "capture"
    FDS: ClassVar = 1
    directions: Annotated[int, Count(RX | TX, least=1)]
    snap: Annotated[int, Count(FRAME_MAX, least=1)]


@dataclass(frozen=True, slots=True)
class EndCapture:
    """Record no more frames."""

    WIRE_NAME: ClassVar = "end-capture"
    FDS: ClassVar = 0


@dataclass(frozen=True, slots=True)
class Quit:
    """End the worker."""

    WIRE_NAME: ClassVar = "quit"
    FDS: ClassVar = 0


Command = (
    DaemonHello
    | Configure
    | GetStats
    | Connected
    | GiveQueue
    | Inject
    | Release
    | ForgetStations
    | GiveUserfaultfd
    | RefuseUserfaultfd
    | HandOver
    | CaptureFrames
    | EndCapture
    | Quit
)

KNOWN = tuple(sorted(kind.WIRE_NAME for kind in get_args(Command)))
"""The names of all commands, which a worker tells with its hello."""

KNOWN_AT_FIRST = (
    "configure",
    "connected",
    "forget-stations",
    "hello",
    "inject",
    "no-userfaultfd",
    "quit",
    "release",
    "stats",
    "userfaultfd",
)
"""The commands of workers of version 2, which do not tell."""

_MESSAGES: Messages[Command] = Messages("op", Command)


def encode(command: Command) -> dict[str, Any]:
    """A command as a JSON object."""
    return _MESSAGES.encode(command)


def decode(said: dict[str, Any], fds: Sequence[int]) -> Command:
    """Check a command that came with `fds`, which stay the caller's.

    Raises UnknownKindError for a command that is not known here, MessageError for a wrong one.
    """
    command = _MESSAGES.decode(said)
    if len(fds) != command.FDS:
        raise MessageError(f"{command.WIRE_NAME}: {len(fds)} fds, not {command.FDS}")
    return command
