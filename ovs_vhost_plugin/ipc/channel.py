# SPDX-License-Identifier: Apache-2.0
"""The channel from the daemon to a worker: JSON objects, with fds beside them.

A worker listens on a SOCK_SEQPACKET unix socket and serves one daemon at a time, so that it
outlives the daemon and the next daemon adopts it. Over that socket the daemon only sends commands
(`commands.py`). A worker's reports (`reports.py`) come by a pipe that the daemon sends with its
hello (`ipc/reportpipe.py`). A worker faces a guest and may have been taken over by it. So the
daemon checks every report: `reports.decode` the contents, `daemon/workers/report_rates.py` the
rate.
"""

import json
import os
import socket
from array import array
from collections import deque
from collections.abc import Sequence
from typing import Any

_INT_SIZE = array("i").itemsize

MAX_PACKET = 128 * 1024
"""The most bytes of one packet. Statistics of 128 queue pairs fit; a socket buffer holds it."""

HELD_BATCH_FRAMES, HELD_BATCH_BYTES = 256, 48 * 1024
"""The most frames, and bytes of frames, in one "held"; a single frame may be longer.

Either fits in a packet, in base64 and with its JSON."""

MAX_BACKLOG = 64
"""The most packets kept for a peer that does not read; one more closes the channel."""

MAX_BATCH = 64
"""The most packets of one `Channel.receive`, so that no peer holds up the reader's loop."""


class ChannelClosed(Exception):  # noqa: N818 - an event of every connection, not an error
    """The peer has gone, or its further packets are useless; the text says which."""


class ChannelBroken(ChannelClosed):
    """The peer broke the framing, or does not read, and is not trusted any more."""


class Channel:
    """One end of a control connection. Never blocks; bounded in both directions."""

    def __init__(self, sock: socket.socket, max_fds: int = 1) -> None:
        """Take over `sock` (SOCK_SEQPACKET). A packet with more than `max_fds` fds is refused."""
        sock.setblocking(False)
        self._sock = sock
        self._max_fds = max_fds
        self._backlog: deque[tuple[bytes, list[int]]] = deque()
        self._end: ChannelClosed | None = None

    def fileno(self) -> int:
        """The socket, for a poll loop; -1 when closed."""
        return self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether packets wait for a peer that does not read: poll for writing, then `flush`."""
        return bool(self._backlog)

    def send(self, obj: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send one object. The fds stay the caller's. Raises ChannelClosed if the peer is gone."""
        packet = encode_object(obj)
        if len(self._backlog) >= MAX_BACKLOG:
            raise ChannelBroken("it does not read")
        # Kept fds are duplicates, as they must outlive the caller's.
        self._backlog.append((packet, [os.dup(fd) for fd in fds]))
        self.flush()

    def send_now(self, obj: dict[str, Any], fds: Sequence[int]) -> bool:
        """Send one object with fds now, or not at all, so that no copy of the fds is kept.

        The last close of a peer's fd may have to wait for that peer. Raises as `send`.
        """
        self.flush()
        if self._backlog:
            return False
        try:
            socket.send_fds(self._sock, [encode_object(obj)], fds)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ChannelClosed(f"sending failed: {error.strerror}") from error
        return True

    def flush(self) -> None:
        """Send the packets that wait, as far as the socket takes them."""
        while self._backlog:
            packet, fds = self._backlog[0]
            try:
                socket.send_fds(self._sock, [packet], fds)
            except BlockingIOError:
                return
            except OSError as error:
                raise ChannelClosed(f"sending failed: {error.strerror}") from error
            _close_all(fds)
            self._backlog.popleft()

    def receive(self) -> list[tuple[dict[str, Any], list[int]]]:
        """Return the packets that have come. The fds become the caller's.

        Packets before an end or an error are returned first; the next call raises.
        """
        received: list[tuple[dict[str, Any], list[int]]] = []
        while self._end is None and len(received) < MAX_BATCH:
            try:
                received.append(self._receive_one())
            except BlockingIOError:
                return received
            except ChannelClosed as end:
                self._end = end  # for good: packets after a broken packet are meaningless
        if self._end is not None and not received:
            raise self._end
        return received

    def _receive_one(self) -> tuple[dict[str, Any], list[int]]:
        try:
            packet, fds, flags = receive_packet(self._sock, self._max_fds)
        except BlockingIOError:
            raise
        except OSError as error:
            raise ChannelClosed(f"receiving failed: {error.strerror}") from error
        try:
            return _decode(packet, flags), fds
        except ChannelClosed:
            _close_all(fds)
            raise

    def close(self) -> None:
        """Close the socket and all kept fds."""
        while self._backlog:
            _close_all(self._backlog.popleft()[1])
        self._sock.close()


def connect(path: str) -> Channel:
    """A connection to a worker over which nothing ever comes back.

    Packets of a socket may carry fds, and closing the socket closes those too. The socket is shut
    down for reading before it is connected, so a worker has no moment in which to send an fd.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        sock.shutdown(socket.SHUT_RD)
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return Channel(sock, max_fds=0)


def receive_packet(sock: socket.socket, max_fds: int) -> tuple[bytes, list[int], int]:
    """The next packet, its fds, which become the caller's, and the flags of recvmsg(2).

    Raises OSError. More than `max_fds` fds are cut off, and the flags say so.
    """
    # Not socket.recv_fds, which ignores its flags in Python 3.11.
    packet, ancillary, flags, _ = sock.recvmsg(
        MAX_PACKET, socket.CMSG_LEN(max_fds * _INT_SIZE), socket.MSG_CMSG_CLOEXEC
    )
    fds = array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) // _INT_SIZE * _INT_SIZE])
    return packet, fds.tolist(), flags


def encode_object(obj: dict[str, Any]) -> bytes:
    """The packet of a JSON object. Raises ValueError if it is too large."""
    packet = json.dumps(obj, separators=(",", ":")).encode()
    if len(packet) > MAX_PACKET:
        raise ValueError(f"control packet of {len(packet)} bytes")
    return packet


def _decode(packet: bytes, flags: int) -> dict[str, Any]:
    if not packet:
        raise ChannelClosed("closed by the peer")
    if flags & socket.MSG_TRUNC:
        raise ChannelBroken(f"packet of more than {MAX_PACKET} bytes")
    if flags & socket.MSG_CTRUNC:
        raise ChannelBroken("more fds than this end takes")
    return decode_object(packet, "packet")


def decode_object(text: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `text`; an error calls it `what`. Raises ChannelBroken."""
    try:
        obj = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ChannelBroken(f"{what} is no JSON") from error
    if not isinstance(obj, dict):
        raise ChannelBroken(f"{what} is no JSON object")
    return obj


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
