# SPDX-License-Identifier: Apache-2.0
"""A client of a private switch's database that sees each change of a port's row as it comes.

`ovs-vsctl wait-until` reads the whole database first, which at a thousand ports takes as long as
what is measured here.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ovs_vhost_plugin.lab.process import LabError

_DATABASE = "Open_vSwitch"
_MONITORED = {"Interface": [{"columns": ["name", "ofport", "external_ids"]}]}


@dataclass(slots=True)
class Port:
    """A port's row: the OpenFlow port, None before there is one, and the status."""

    ofport: int | None = None
    status: str = ""


class InterfaceRows:
    """The Interface rows, by name. `run` takes the changes that have come."""

    def __init__(self, directory: Path) -> None:
        self.ports: dict[str, Port] = {}
        self._names: dict[str, str] = {}
        self._buffer = ""
        self._decoder = json.JSONDecoder()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(directory / "db.sock"))
        self._send({"id": 0, "method": "monitor", "params": [_DATABASE, None, _MONITORED]})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def until(self, condition: Callable[[], object], what: str, seconds: float) -> float:
        """The time at which `condition` is first true of the rows. Raises LabError."""
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                raise LabError(f"{what}: not within {seconds:g} s")
            self.run(left)
        return time.monotonic()

    def run(self, seconds: float) -> None:
        """Take the messages that are there; wait up to `seconds` for the first."""
        if not select.select([self._socket], [], [], max(seconds, 0))[0]:
            return
        data = self._socket.recv(1 << 20)
        if not data:
            raise LabError("the database has closed its connection")
        self._buffer += data.decode()
        while self._buffer:
            try:
                message, end = self._decoder.raw_decode(self._buffer)
            except ValueError:
                return  # the rest is on its way
            self._buffer = self._buffer[end:]
            self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        if message.get("method") == "echo":
            self._send({"id": message["id"], "result": message["params"], "error": None})
        elif message.get("method") == "update":
            self._update(message["params"][1])
        elif message.get("id") == 0:
            self._update(message["result"])

    def _update(self, tables: dict[str, Any]) -> None:
        for uuid, change in tables.get("Interface", {}).items():
            new = change.get("new")
            if new is None:
                self.ports.pop(self._names.pop(uuid, ""), None)
                continue
            name = self._names[uuid] = new["name"]
            number = new["ofport"] if isinstance(new["ofport"], int) else 0
            status = dict(new["external_ids"][1]).get("vhost-user-status", "")
            self.ports[name] = Port(number if number > 0 else None, status)

    def _send(self, message: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps(message).encode())
