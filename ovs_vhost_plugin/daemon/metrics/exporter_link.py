# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of the exporter (`metrics/exporter.py`), a process that faces clients.

It may have been taken over by a client: it can ask for scrapes, and end.
"""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

_PROGRAM = "ovs_vhost_plugin.metrics.exporter"
_READ_AT_ONCE = 4096


class ExporterLink:
    """The process, and the socket to it."""

    def __init__(self, listener: socket.socket) -> None:
        """Start the process, which gets the listening socket. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            fds = [listener.fileno(), theirs.fileno()]
            self._program = subprocess.Popen(
                [sys.executable, "-P", "-s", "-m", _PROGRAM, *map(str, fds)],
                env={"PYTHONPATH": os.pathsep.join(p for p in sys.path if Path(p).is_absolute())},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=fds,
                start_new_session=True,
            )
        self._socket = ours
        self._socket.setblocking(False)
        self._waiting = bytearray()
        self.gone = False
        """Whether the process has closed the socket."""

    def fileno(self) -> int:
        """The socket's number."""
        return self._socket.fileno()

    @property
    def events(self) -> int:
        """The events of poll(2) to wait for."""
        return select.POLLIN | (select.POLLOUT if self._waiting else 0)

    @property
    def idle(self) -> bool:
        """Whether it has taken all that was sent."""
        return not self._waiting

    def asked(self) -> bool:
        """Whether it has asked for a scrape since the last call."""
        try:
            found = self._socket.recv(_READ_AT_ONCE)
        except BlockingIOError:
            return False
        except OSError:
            found = b""
        self.gone = self.gone or not found
        return b"\n" in found

    def send(self, value: dict[str, Any]) -> None:
        """Send a value as a line, now or by `flush`."""
        self._waiting += json.dumps(value).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as there is room."""
        try:
            while self._waiting:
                del self._waiting[: self._socket.send(self._waiting)]
        except BlockingIOError:
            pass
        except OSError:
            self.gone = True
            self._waiting.clear()

    def close(self) -> None:
        """End the process."""
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            self._program.kill()
        self._program.wait()
