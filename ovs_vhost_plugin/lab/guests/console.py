# SPDX-License-Identifier: Apache-2.0
"""A guest's serial console, used as a remote shell with markers instead of a prompt.

init.sh in the guest reads "NONCE COMMAND" and answers "@NONCE@", the output, "@NONCE:STATUS@".
The nonce tells this command's answer from remains of another's, also after a migration has moved
the guest to a new console in the middle of an answer.
"""

from __future__ import annotations

import itertools
import re
import socket
import time
from pathlib import Path

from ovs_vhost_plugin.lab.process import PATIENCE, LabError, readable

_nonces = itertools.count(1)


class Console:
    """The console of one guest, over a stream socket, which this object takes."""

    def __init__(self, sock: socket.socket) -> None:
        self._text = ""
        self._socket = sock

    @classmethod
    def connect(cls, path: Path) -> Console:
        """The console of a QEMU process that listens on `path`."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(str(path))
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    def close(self) -> None:
        """Drop the connection; the guest goes on."""
        self._socket.close()

    def wait_booted(self, seconds: float = PATIENCE) -> None:
        """Return when the guest's init takes commands."""
        self._wait(r"@ready@", "the guest's boot", time.monotonic() + seconds)

    def run(self, command: str, *, check: bool = True, seconds: float = PATIENCE) -> str:
        """Run a shell command in the guest; return its output (both streams), stripped.

        Raises LabError when it fails (`check`) or has not ended in time.
        """
        nonce = f"n{next(_nonces)}"
        self._send(f"{nonce} {command}\n", seconds)
        pattern = rf"@{nonce}@\r?\n(.*?)@{nonce}:(\d+)@"
        match = self._wait(
            pattern, f"the guest's answer to {command!r}", time.monotonic() + seconds
        )
        output, status = match[1].replace("\r", "").strip(), int(match[2])
        if check and status:
            raise LabError(f"in the guest: {command!r}: exit status {status}: {output}")
        return output

    def _send(self, line: str, seconds: float) -> None:
        self._socket.settimeout(seconds)
        try:
            self._socket.sendall(line.encode())
        except OSError as error:
            raise LabError(f"the guest's console: {error}") from error

    def _wait(self, pattern: str, what: str, deadline: float) -> re.Match[str]:
        """The first match in the guest's output; everything up to it is consumed."""
        while not (match := re.search(pattern, self._text, re.DOTALL)):
            if not readable(self._socket, deadline - time.monotonic()):
                raise LabError(f"{what}: not in time; it said: {self._text[-400:]!r}")
            try:
                data = self._socket.recv(65536)
            except OSError:
                data = b""
            if not data:
                raise LabError(f"{what}: the guest is gone; it said: {self._text[-400:]!r}")
            self._text += data.decode(errors="replace")
        self._text = self._text[match.end() :]
        return match
