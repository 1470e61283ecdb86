# SPDX-License-Identifier: Apache-2.0
"""The messages between the daemon and who captures, over a socket that root alone may use.

The frames themselves go from the worker to the reader, by memory (`jit/capture_ring.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from ovs_vhost_plugin.ipc.codec import Count, Line, Messages, Seconds, Text
from ovs_vhost_plugin.jit.capture_ring import FRAME_MAX, RX, TX


class CaptureErrorName(StrEnum):
    """Why there is no capture, or no more of it."""

    NO_PORT = "capture-no-port"
    BUSY = "capture-busy"
    TOO_MANY = "capture-too-many"
    OUTDATED = "capture-process-outdated"
    NOT_SERVING = "capture-not-serving"
    NO_MEMORY = "capture-no-memory"
    RING_BROKEN = "capture-ring-broken"


# -- reader to daemon -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AskCapture:
    """Capture a port until this connection ends; the fields are those of `CaptureFrames`."""

    WIRE_NAME: ClassVar = "capture"
    port: Annotated[str, Text(64)]
    directions: Annotated[int, Count(RX | TX, least=1)] = RX | TX
    snap: Annotated[int, Count(FRAME_MAX, least=1)] = FRAME_MAX


# -- daemon to reader -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GivenRings:
    """A worker of `queues` queue pairs records from now on, into the file whose fd comes with this.

    The worker before, if there was one, records no more.
    """

    WIRE_NAME: ClassVar = "rings"
    queues: Annotated[int, Count(128, least=1)]


@dataclass(frozen=True, slots=True)
class CaptureMark:
    """Something that happened to the port at CLOCK_MONOTONIC second `at`.

    kind  "status", "announcement", "migration" or "process"
    """

    WIRE_NAME: ClassVar = "mark"
    kind: Annotated[str, Line(20)]
    text: Annotated[str, Line()]
    at: Annotated[float, Seconds()]


@dataclass(frozen=True, slots=True)
class CaptureEnded:
    """There is nothing more to come, for the reason `why`."""

    WIRE_NAME: ClassVar = "ended"
    why: Annotated[str, Line()]


FromDaemon = GivenRings | CaptureMark | CaptureEnded

FROM_READER: Messages[AskCapture] = Messages("op", AskCapture)
FROM_DAEMON: Messages[FromDaemon] = Messages("event", FromDaemon)
