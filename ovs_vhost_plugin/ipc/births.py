# SPDX-License-Identifier: Apache-2.0
"""The messages between the daemon and the fork server (`worker/birth/forkserver.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from ovs_vhost_plugin.ipc.codec import Count, Line, Messages, Most, Text
from ovs_vhost_plugin.ipc.spec import WorkerSpec

_PORT_NAME = Annotated[str, Text(64)]
_PID = Annotated[int, Count(1 << 22, least=1)]  # PID_MAX_LIMIT


# -- daemon to fork server ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ForkWorker:
    """Fork a worker.

    Its fds: vitals[, cgroup.procs if `group`], control listener[, front-end listener if
    `listener`], journal, and a queue of the tap for each queue pair.

    With `successor` the worker takes the port over from another one: the fds are vitals[,
    cgroup.procs if `group`], and a socket to that one.
    """

    WIRE_NAME: ClassVar = "fork"
    spec: WorkerSpec
    listener: bool = False
    group: bool = False
    successor: bool = False


@dataclass(frozen=True, slots=True)
class Dispose:
    """Close the fds that come with this, in a child made for it.

    A peer decides how long the close takes.
    """

    WIRE_NAME: ClassVar = "dispose"


Request = ForkWorker | Dispose


# -- fork server to daemon ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """Workers can be forked.

    lacking  the layers that their sandbox lacks here
    build    the code that they run (`common/build.py`)
    tap_io   how they write frames to their taps, and why
    """

    WIRE_NAME: ClassVar = "ready"
    lacking: Annotated[tuple[Annotated[str, Line()], ...], Most(64)]
    build: Annotated[str, Line(80)] = ""
    tap_io: Annotated[str, Line(200)] = ""


@dataclass(frozen=True, slots=True)
class Broken:
    """No worker can be forked, and the program ends."""

    WIRE_NAME: ClassVar = "broken"
    error: Annotated[str, Line(300)]


@dataclass(frozen=True, slots=True)
class Born:
    """The worker of port `name`, or the successor that is to be its worker, is process `pid`."""

    WIRE_NAME: ClassVar = "born"
    name: _PORT_NAME
    pid: _PID
    successor: bool = False


@dataclass(frozen=True, slots=True)
class Stillborn:
    """No worker of port `name` was born: the kernel made no process."""

    WIRE_NAME: ClassVar = "stillborn"
    name: _PORT_NAME
    error: Annotated[str, Line()]
    successor: bool = False


@dataclass(frozen=True, slots=True)
class Exited:
    """A child has ended; `status` is that of os.waitstatus_to_exitcode()."""

    WIRE_NAME: ClassVar = "exited"
    pid: _PID
    status: Annotated[int, Count(255, least=-255)]


News = Ready | Broken | Born | Stillborn | Exited

_REQUESTS: Messages[Request] = Messages("op", Request)
_NEWS: Messages[News] = Messages("event", News)


def encode_request(request: Request) -> dict[str, Any]:
    """A request as a JSON object."""
    return _REQUESTS.encode(request)


def decode_request(said: dict[str, Any]) -> Request:
    """Check a request. Raises MessageError."""
    return _REQUESTS.decode(said)


def encode_news(news: News) -> dict[str, Any]:
    """The fork server's news as a JSON object."""
    return _NEWS.encode(news)


def decode_news(said: dict[str, Any]) -> News:
    """Check the fork server's news. Raises MessageError."""
    return _NEWS.decode(said)
