# SPDX-License-Identifier: Apache-2.0
"""Where metrics are served, by other_config:vhost-user-metrics; and the listening socket there.

`unix`: a socket in the run directory, for the daemon's user and group. `tcp:PORT`: on loopback,
where every local user may read. Nowhere else: other hosts come through something that asks who
they are.
"""

import os
import re
import socket
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import ovs.fatal_signal

from ovs_vhost_plugin.common.named import NamedError

KEY = "vhost-user-metrics"
"""Key of Open_vSwitch:other_config."""

NAME = "ovs-vhost.metrics"
"""The socket's name in the run directory."""

_MODE = 0o660
_BACKLOG = 16


class MetricsErrorName(StrEnum):
    """Why metrics are not served."""

    PLACE_INVALID = "metrics-place-invalid"
    NOT_SERVED = "metrics-not-served"


class MetricsError(NamedError):
    """Metrics are not served; the text says why."""


@dataclass(frozen=True, slots=True)
class MetricsPlace:
    """A path, or a port on loopback."""

    path: Path | None = None
    port: int = 0

    def __str__(self) -> str:
        return f"http://127.0.0.1:{self.port}/metrics" if self.path is None else f"unix:{self.path}"


def parse_place(text: str, rundir: Path) -> MetricsPlace | None:
    """The place that the key asks for; None: nowhere. Raises MetricsError."""
    if text in ("", "off"):
        return None
    if text == "unix":
        return MetricsPlace(rundir / NAME)
    found = re.fullmatch(r"tcp:(\d{1,5})", text, re.ASCII)
    if found is None or not 1 <= int(found[1]) <= 65535:
        advice = f"set other_config:{KEY} to unix, tcp:PORT or off"
        raise MetricsError(MetricsErrorName.PLACE_INVALID, advice)
    return MetricsPlace(port=int(found[1]))


def listen(place: MetricsPlace) -> socket.socket:
    """A socket that listens there. Raises MetricsError."""
    family = socket.AF_INET if place.path is None else socket.AF_UNIX
    try:
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            if place.path is None:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind(("127.0.0.1", place.port))
            else:
                _bind(made, place.path)
            made.listen(_BACKLOG)
        except BaseException:
            made.close()
            raise
    except OSError as error:
        text = f"{place}: {error.strerror or error}"
        raise MetricsError(MetricsErrorName.NOT_SERVED, text) from error
    return made


def remove(place: MetricsPlace) -> None:
    """Remove the socket of a place that is no more, or of a daemon before."""
    if place.path is not None and _is_socket(place.path):
        place.path.unlink(missing_ok=True)
        ovs.fatal_signal.remove_file_to_unlink(os.fspath(place.path))


def _bind(made: socket.socket, path: Path) -> None:
    remove(MetricsPlace(path))
    made.bind(os.fspath(path))
    ovs.fatal_signal.add_file_to_unlink(os.fspath(path))  # when SIGTERM ends the daemon
    # Until here the daemon's umask has kept the group from writing, which connecting needs.
    path.chmod(_MODE)


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return False
