# SPDX-License-Identifier: Apache-2.0
"""The process that answers scrapes: HTTP on a socket that it was given.

    python -m ovs_vhost_plugin.metrics.exporter LISTENER CONTROL

Both are fds. Over CONTROL, a stream, it asks the daemon for its values (a line), and gets them as
lines of JSON, of which the last has "daemon". It ends when the daemon closes it.

Clients may be hostile: each has little time and little room, a user may have few connections, and
what is made for one is given to all who ask within a second.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import sys
import time
from collections import Counter
from concurrent.futures.thread import ThreadPoolExecutor
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from ovs_vhost_plugin.common import process
from ovs_vhost_plugin.metrics.families import families

FRESH = 1.0
"""Seconds for which the values of a scrape are given to others."""
CONNECTIONS, PER_USER = 32, 8
"""Most connections at a time, and most of one user's where the socket tells who it is."""
HEAD_SECONDS, HEAD_BYTES = 5.0, 8192
ANSWER_SECONDS = 15.0
"""Bounds of a request, and the time in which a client has to take its answer."""
_PIECE = 1 << 16
_LINE_MAX = 1 << 22  # of the daemon, whom this process believes
_NOBODY = 65534  # the kernel's overflow uid: nobody, nogroup

_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}
_REASONS[503] = "Service Unavailable"


class Daemon:
    """The daemon's values, asked for when they are needed, once at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()
        self._text = b""
        self._made_at = -FRESH
        self._asking = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "render")
        self._daemon: dict[str, Any] = {}
        self._ports: dict[str, Any] = {}

    async def listen(self) -> None:
        """Take the daemon's lines, until it has gone."""
        while line := await self._reader.readline():
            self._lines.put_nowait(line)
        self._lines.put_nowait(b"")

    async def text(self) -> bytes:
        """The page. Raises EOFError when the daemon has gone."""
        async with self._asking:
            if time.monotonic() - self._made_at >= FRESH:
                await self._ask()
                # In a thread: meanwhile other clients are told to wait, or to go.
                loop = asyncio.get_running_loop()
                self._text = await loop.run_in_executor(self._thread, self._render)
                self._made_at = time.monotonic()
        return self._text

    async def _ask(self) -> None:
        self._writer.write(b"scrape\n")
        await self._writer.drain()
        self._ports = {}
        while True:
            line = await self._lines.get()
            if not line:
                self._lines.put_nowait(b"")  # for those who ask meanwhile
                raise EOFError
            told = json.loads(line)
            if "daemon" in told:
                self._daemon = told["daemon"]
                return
            self._ports[told["port"]] = told

    def collect(self) -> Any:
        """The families, for prometheus_client's registry."""
        return families(self._daemon, self._ports)

    def _render(self) -> bytes:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        text: bytes = generate_latest(registry)
        return text


class Clients:
    """The connections, and who has them."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._of: Counter[int] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request of a connection, and close it."""
        user = user_of(writer.get_extra_info("socket"))
        if self._of.total() >= CONNECTIONS or (user >= 0 and self._of[user] >= PER_USER):
            writer.transport.abort()
            return
        self._of[user] += 1
        try:
            await self._serve(reader, writer)
            writer.close()
        except (OSError, TimeoutError):
            writer.transport.abort()  # what was not taken by now is not taken
        finally:
            self._of[user] -= 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            status = status_of(head)
        except (asyncio.LimitOverrunError, asyncio.IncompleteReadError):
            status = 400
        text, kind = f"{status} {_REASONS[status]}\n".encode(), "text/plain; charset=utf-8"
        if status == 200:
            try:
                text, kind = await self._daemon.text(), CONTENT_TYPE_LATEST
            except EOFError:
                status, text = 503, b"the daemon has gone\n"
        async with asyncio.timeout(ANSWER_SECONDS):
            await _answer(writer, status, kind, text)


async def _answer(writer: asyncio.StreamWriter, status: int, kind: str, text: bytes) -> None:
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
    )
    writer.transport.set_write_buffer_limits(high=_PIECE)
    writer.write(head.encode())
    # In pieces: the rest of the page is one for all clients, however slowly they read.
    for start in range(0, len(text), _PIECE):
        writer.write(text[start : start + _PIECE])
        await writer.drain()
    writer.transport.set_write_buffer_limits(high=0)
    await writer.drain()


def status_of(head: bytes) -> int:
    """The HTTP status that answers a request's head."""
    words = head.partition(b"\r\n")[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return 400
    if words[0] != b"GET":
        return 405
    return 200 if words[1].partition(b"?")[0] in (b"/metrics", b"/") else 404


def user_of(connection: Any) -> int:
    """The user at the other end of a Unix socket; -1: unknown, as over TCP."""
    if connection is None or connection.family != socket.AF_UNIX:
        return -1
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    uid: int = struct.unpack("iII", found)[1]
    return uid


async def serve(listener: socket.socket, control: socket.socket) -> None:
    """Answer clients until the daemon closes `control`."""
    daemon = Daemon(*await asyncio.open_connection(sock=control, limit=_LINE_MAX))
    clients = Clients(daemon)
    async with await asyncio.start_server(clients.serve, sock=listener, limit=HEAD_BYTES):
        await daemon.listen()


def drop_privileges() -> None:
    """Become nobody, for good."""
    process.forbid_new_privileges()
    if os.geteuid() == 0:
        process.empty_bounding_set()
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def main(argv: list[str]) -> int:
    """Run the process; `argv`: the two fds."""
    listener, control = (socket.socket(fileno=int(word)) for word in argv)
    process.set_name("ovs-vhost-metrics")
    generate_latest(CollectorRegistry())  # what it imports may not be for nobody to read
    drop_privileges()
    asyncio.run(serve(listener, control))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
