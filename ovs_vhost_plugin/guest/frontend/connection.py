# SPDX-License-Identifier: Apache-2.0
"""The front-end's end of the socket: requests out, replies in, with a limit to every wait.

vhost-user "Communication": the front-end sends requests, of which the back-end answers some. A
back-end under test may hang, die or talk nonsense at any point, so each way to fail is an exception
with a name of its own.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from pathlib import Path

from ovs_vhost_plugin.vhost.errors import PeerError
from ovs_vhost_plugin.vhost.fds.closing import close_fds
from ovs_vhost_plugin.vhost.message import Decoder, Message, encode
from ovs_vhost_plugin.vhost.spec import MAX_FDS, NEED_REPLY, REPLY, U64, VERSION


class BackEndError(Exception):
    """The back-end did something that a front-end cannot work with."""


class ReplyTimeoutError(BackEndError):
    """The back-end does not answer, or does not read."""


class BackEndClosedError(BackEndError):
    """The back-end has closed the connection or died."""


class RequestRefusedError(BackEndError):
    """The back-end refused a request by REPLY_ACK."""


class WrongReplyError(BackEndError):
    """The answer is to another request, or malformed."""


def listen(path: Path) -> socket.socket:
    """A socket for a back-end in client mode to connect to."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


class FrontEndConnection:
    """A connection to a back-end; every call ends within `timeout` seconds."""

    def __init__(self, sock: socket.socket, timeout: float = 30.0) -> None:
        self._socket = sock
        self.timeout = timeout
        self._decoder = Decoder(replies=True)

    @classmethod
    def connect(cls, path: Path, timeout: float = 30.0) -> FrontEndConnection:
        """Connect to a back-end that listens (server mode). Raises OSError if none does."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            sock.connect(str(path))
        except OSError:
            sock.close()
            raise
        return cls(sock, timeout)

    @classmethod
    def accept(cls, listener: socket.socket, timeout: float = 30.0) -> FrontEndConnection:
        """Wait for a back-end that connects (client mode)."""
        listener.settimeout(timeout)
        try:
            return cls(listener.accept()[0], timeout)
        except TimeoutError:
            raise ReplyTimeoutError(f"no back-end connected in {timeout} s") from None

    def fileno(self) -> int:
        """For poll: if it is readable without a request under way, the back-end has gone."""
        return self._socket.fileno()

    def close(self) -> None:
        """Hang up."""
        self._decoder.close()
        self._socket.close()

    def send_raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes, right or wrong, with `fds` beside the first of them."""
        self._socket.settimeout(self.timeout)
        try:
            sent = socket.send_fds(self._socket, [data], fds)
            self._socket.sendall(data[sent:])
        except TimeoutError:
            raise ReplyTimeoutError(f"the back-end did not read for {self.timeout} s") from None
        except (BrokenPipeError, ConnectionResetError) as error:
            raise BackEndClosedError(str(error)) from error

    def tell(
        self, request: int, payload: bytes = b"", fds: Sequence[int] = (), ack: bool = False
    ) -> None:
        """Send a request that has no reply of its own; with `ack` wait for its REPLY_ACK."""
        flags = VERSION | (NEED_REPLY if ack else 0)
        self.send_raw(encode(Message(request, payload, flags)), fds)
        if ack:
            result: int = U64.unpack(self._reply(request, U64.size))[0]
            if result:
                raise RequestRefusedError(f"{request!r}: {result}")

    def ask(
        self, request: int, payload: bytes = b"", fds: Sequence[int] = (), size: int | None = None
    ) -> bytes:
        """Send a request and return the payload of its reply, which must have `size` bytes."""
        self.send_raw(encode(Message(request, payload)), fds)
        return self._reply(request, size)

    def ask_fd(self, request: int) -> int:
        """Send a request whose reply is one fd, and return the fd; the caller closes it."""
        self.send_raw(encode(Message(request)))
        message = self.receive()
        if message.request != request or message.payload or len(message.fds) != 1:
            close_fds(message.fds)
            raise WrongReplyError(f"{message} to {request!r}")
        return message.fds[0]

    def check(self) -> None:
        """Raise BackEndClosedError if the back-end has hung up."""
        self._socket.settimeout(0)
        try:
            data = self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            raise BackEndClosedError("end of file")
        raise WrongReplyError("a message that nobody asked for")

    def receive(self) -> Message:
        """The next message of the back-end."""
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                message = self._decoder.next()
            except PeerError as error:
                raise WrongReplyError(str(error)) from error
            if message is not None:
                return message
            self._read(deadline - time.monotonic())

    def _reply(self, request: int, size: int | None) -> bytes:
        message = self.receive()
        close_fds(message.fds)
        if message.request != request or message.flags != VERSION | REPLY:
            raise WrongReplyError(f"{message} to {request!r}")
        if size is not None and len(message.payload) != size:
            raise WrongReplyError(f"{len(message.payload)} bytes, not {size}, to {request!r}")
        return message.payload

    def _read(self, seconds: float) -> None:
        if seconds <= 0:
            raise ReplyTimeoutError(f"no reply in {self.timeout} s")
        self._socket.settimeout(seconds)
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, self._decoder.wanted, MAX_FDS)
        except TimeoutError:
            raise ReplyTimeoutError(f"no reply in {self.timeout} s") from None
        except ConnectionResetError as error:
            raise BackEndClosedError(str(error)) from error
        if not data:
            raise BackEndClosedError("end of file")
        self._decoder.feed(data, fds)
