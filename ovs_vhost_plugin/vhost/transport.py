# SPDX-License-Identifier: Apache-2.0
"""A non-blocking unix stream socket on one side, whole messages on the other.

The only file of this package that knows sockets. A peer that sends half a message holds up nobody
but itself. A peer that never reads its replies is cut off at a bound.
"""

import array
import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence

from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.fds.closing import close_fds
from ovs_vhost_plugin.vhost.message import Decoder, Message, encode

# unix(7): SCM_MAX_FD, the most fds the kernel delivers with one message. The buffer has room for
# all of them, so truncation can only mean that this process has no fd left.
_SCM_MAX_FD = 253
_FD_SIZE = array.array("i").itemsize
# Bounds for one call, so that a busy peer does not keep the caller from its other duties, and for
# unread replies (some thousand).
_MESSAGES_AT_ONCE = 32
_SEND_BUFFER = 64 * 1024
# MSG_DONTWAIT too: the peer shares the O_NONBLOCK flag of a socket it passed, and could clear it.
_SEND = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT
_SEND_FDS = 16


class ConnectionClosed(Exception):  # noqa: N818 (an event, not an error)
    """The peer has closed the connection."""


class Connection:
    """Messages over `sock`, which it owns. `replies` as for Decoder."""

    def __init__(self, sock: socket.socket, *, replies: bool = False) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._decoder = Decoder(replies=replies)
        self._unsent: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._unsent_bytes = 0

    def fileno(self) -> int:
        """The socket's fd, to be polled for reading, and for writing if `wants_write`."""
        return self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether replies wait for the peer to read; if so, call `flush` when writable."""
        return bool(self._unsent)

    @property
    def idle(self) -> bool:
        """Whether it stands between two messages, in both directions."""
        return self._decoder.empty and not self._unsent

    def receive(self) -> Iterator[Message]:
        """The whole messages that have arrived, up to a bound; the caller owns their fds.

        A message is read from the socket when the iterator is advanced: a caller that stops at a
        wrong message has no others to clean up. Raises ConnectionClosed, or the PeerError of a
        wrong message, after the messages that came before it. After a PeerError the connection is
        of no more use.
        """
        for _ in range(_MESSAGES_AT_ONCE):
            while (message := self._decoder.next()) is None:
                if not self._read():
                    return
            yield message

    def _read(self) -> bool:
        """Read at most the missing bytes of one message, so that the fds are its own."""
        space = socket.CMSG_SPACE(_SCM_MAX_FD * _FD_SIZE)
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(
                self._decoder.wanted, space, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return False
        except ConnectionError as error:
            raise ConnectionClosed(str(error)) from error
        self._decoder.feed(data, _rights(ancillary))
        if flags & socket.MSG_CTRUNC:
            raise PeerError(PeerErrorName.FDS_TRUNCATED)
        if not data:
            raise ConnectionClosed
        return True

    def send(self, message: Message) -> None:
        """Send a message, or keep it while the peer does not read.

        The caller still owns the message's fds; a kept message has copies. Raises ConnectionClosed,
        and PeerError if too much is kept already.
        """
        data = encode(message)
        if self._unsent_bytes + len(data) > _SEND_BUFFER:
            raise PeerError(PeerErrorName.REPLIES_NOT_READ, f"{self._unsent_bytes} bytes")
        if message.fds:
            waiting = sum(len(fds) for _, fds in self._unsent)
            if waiting + len(message.fds) > _SEND_FDS:
                raise PeerError(PeerErrorName.REPLIES_NOT_READ, f"{waiting} fds")
        self._unsent.append((data, tuple(os.dup(fd) for fd in message.fds)))
        self._unsent_bytes += len(data)
        self.flush()

    def flush(self) -> None:
        """Send kept messages as far as the peer takes them. Raises ConnectionClosed."""
        while self._unsent:
            data, fds = self._unsent.popleft()
            try:
                sent = self._sock.sendmsg([data], _ancillary(fds), _SEND)
            except BlockingIOError:
                self._unsent.appendleft((data, fds))
                return
            except ConnectionError as error:
                close_fds(fds)
                raise ConnectionClosed(str(error)) from error
            close_fds(fds)
            self._unsent_bytes -= sent
            if sent < len(data):
                self._unsent.appendleft((data[sent:], ()))

    def close(self) -> None:
        """Close the socket, and the fds of messages not wholly received or not sent."""
        self._decoder.close()
        for _, fds in self._unsent:
            close_fds(fds)
        self._unsent.clear()
        close_fds([self._sock.detach()])


def _rights(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """The fds among the ancillary data of recvmsg."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _FD_SIZE])
    return fds.tolist()


def _ancillary(fds: Sequence[int]) -> list[tuple[int, int, bytes]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
