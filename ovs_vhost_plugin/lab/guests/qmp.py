# SPDX-License-Identifier: Apache-2.0
"""A client for QEMU's machine protocol: one line of JSON a message.

PyPI's qemu.qmp is well kept but wholly asynchronous. The lab is plain sequential code, and the part
of the protocol that it needs (commands, answers, events with their time) is this page.
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovs_vhost_plugin.lab.measure import clock
from ovs_vhost_plugin.lab.process import PATIENCE, LabError, readable


@dataclass(frozen=True)
class Event:
    """An event of QEMU's; `at` is QEMU's own time stamp on our CLOCK_MONOTONIC, in seconds."""

    name: str
    data: dict[str, Any]
    at: float


class Qmp:
    """A connection to a QEMU's monitor socket, past the greeting."""

    def __init__(self, path: Path, seconds: float = PATIENCE) -> None:
        self.events: list[Event] = []
        self._buffer = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
            self._read(time.monotonic() + seconds)  # the greeting
            self.command("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Drop the connection; QEMU goes on."""
        self._socket.close()

    def command(self, name: str, seconds: float = PATIENCE, **arguments: Any) -> Any:
        """Run a command; return its `return` value.  Raises LabError with QEMU's error.

        Underscores in the names of arguments become hyphens, as QMP spells nearly all of them.
        """
        spelled = {key.replace("_", "-"): value for key, value in arguments.items()}
        request = {"execute": name, "arguments": spelled}
        self._send(request, seconds)
        deadline = time.monotonic() + seconds
        while True:
            answer = self._read(deadline)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise LabError(f"QEMU, {name}: {answer['error'].get('desc')}")

    def wait_event(self, name: str, seconds: float = PATIENCE, **data: Any) -> Event:
        """The first event seen so far or to come with this name and these values in its data."""
        deadline = time.monotonic() + seconds
        while True:
            for event in self.events:
                if event.name == name and data.items() <= event.data.items():
                    return event
            self._read(deadline)

    def drain(self) -> list[Event]:
        """All events so far, without waiting."""
        while b"\n" in self._buffer or self._receive(0.0):
            if b"\n" in self._buffer:
                self._take()
        return self.events

    def _read(self, deadline: float) -> dict[str, Any]:
        """The next message of any kind; events are also kept."""
        while b"\n" not in self._buffer:
            if not self._receive(max(0.0, deadline - time.monotonic())):
                raise LabError("QEMU's monitor: no answer in time")
        return self._take()

    def _send(self, request: dict[str, Any], seconds: float) -> None:
        self._socket.settimeout(seconds)
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise LabError(f"QEMU's monitor: {error}") from error

    def _receive(self, seconds: float) -> bool:
        if not readable(self._socket, seconds):
            return False
        try:
            data = self._socket.recv(65536)
        except OSError as error:
            raise LabError(f"QEMU's monitor: {error}") from error
        if not data:
            raise LabError("QEMU's monitor: closed")
        self._buffer += data
        return True

    def _take(self) -> dict[str, Any]:
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if "event" in message:
            stamp = message["timestamp"]
            wall = stamp["seconds"] + stamp["microseconds"] / 1e6
            at = wall + clock.from_wall()
            self.events.append(Event(message["event"], message.get("data", {}), at))
        return message
