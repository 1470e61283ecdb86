# SPDX-License-Identifier: Apache-2.0
"""The worker's end of the back-end channel: requests out, answers in, nothing waits.

An error on the channel costs the front-end the channel and no more: the rings run on, and the
front-end may send another socket.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable

from ovs_vhost_plugin.vhost.backend_channel import OnAnswer, Requests
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.fds.closing import close_fds
from ovs_vhost_plugin.vhost.spec import BackendRequest
from ovs_vhost_plugin.vhost.transport import Connection, ConnectionClosed


class BackEndChannel:
    """At most one channel, the last to be opened. `on_error` is told why a channel was lost."""

    def __init__(
        self, selector: selectors.BaseSelector, on_error: Callable[[PeerError], None]
    ) -> None:
        self._selector = selector
        self._on_error = on_error
        self._connection: Connection | None = None
        self._requests = Requests(acknowledged=False)

    @property
    def is_open(self) -> bool:
        """Whether the front-end can be asked."""
        return self._connection is not None

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, in either direction."""
        return self._connection is None or (self._connection.idle and self._requests.idle)

    def fileno(self) -> int:
        """The channel's socket, -1 for none."""
        return -1 if self._connection is None else self._connection.fileno()

    def open(self, fd: int, *, acknowledged: bool) -> None:
        """Use the unix stream socket `fd`, which this takes over.

        `acknowledged`: REPLY_ACK was negotiated. Raises PeerError if the socket is not connected;
        a previous channel stays open then.
        """
        connection = Connection(_socket(fd), replies=True)
        self.close()
        self._connection = connection
        self._requests = Requests(acknowledged=acknowledged)
        self._selector.register(connection, selectors.EVENT_READ, self._serve)

    def ask(
        self, request: BackendRequest, payload: bytes = b"", on_answer: OnAnswer | None = None
    ) -> bool:
        """Send a request; False: there is no channel, or no channel any more.

        With REPLY_ACK `on_answer` is called with the front-end's answer, 0 for success; never if
        the channel is closed before.
        """
        connection = self._connection
        if connection is None:
            return False
        try:
            connection.send(self._requests.ask(request, payload, on_answer))
            self._watch(connection)
        except ConnectionClosed:
            self.close()
        except PeerError as error:
            if error.name == PeerErrorName.REPLIES_NOT_READ:
                error = PeerError(PeerErrorName.BACKEND_NOT_READ, error.detail)
            self._fail(error)
        return self.is_open

    def close(self) -> None:
        """Close the channel, and forget its open requests."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._selector.unregister(connection)
            connection.close()

    def _serve(self, _now: float) -> None:
        connection = self._connection
        assert connection is not None
        try:
            connection.flush()
            for message in connection.receive():
                self._requests.answer(message)
                if self._connection is not connection:
                    return  # `on_answer` has closed the channel
            self._watch(connection)
        except ConnectionClosed:
            self.close()
        except PeerError as error:
            self._fail(error)

    def _fail(self, error: PeerError) -> None:
        self.close()
        self._on_error(error)

    def _watch(self, connection: Connection) -> None:
        write = selectors.EVENT_WRITE if connection.wants_write else 0
        self._selector.modify(connection, selectors.EVENT_READ | write, self._serve)


def _socket(fd: int) -> socket.socket:
    """The unix stream socket `fd`, taken over. Raises PeerError if it is not connected."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=fd)
    try:
        sock.getpeername()
    except OSError as error:  # nobody is at its other end, or it listens
        close_fds([sock.detach()])
        raise PeerError(PeerErrorName.BACKEND_FD_NOT_SOCKET, str(error.strerror)) from None
    return sock
