# SPDX-License-Identifier: Apache-2.0
"""The front-end's end of the back-end channel: requests in, answers out."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ovs_vhost_plugin.guest.frontend.connection import BackEndClosedError
from ovs_vhost_plugin.vhost.message import Decoder, Message, encode
from ovs_vhost_plugin.vhost.spec import REPLY, U64, VERSION


class RequestChannel:
    """A pair of sockets, one of them for the back-end; answers are written within `timeout` s."""

    def __init__(self, timeout: float) -> None:
        self.socket, self._far = socket.socketpair()
        self._timeout = timeout
        self._decoder = Decoder()

    @contextmanager
    def far_end(self) -> Iterator[int]:
        """The back-end's end, to be passed to it; closed here at the end of the context."""
        with self._far:
            yield self._far.fileno()

    def fileno(self) -> int:
        """For poll: readable when there is a request, or the back-end has closed its end."""
        return self.socket.fileno()

    def receive(self, seconds: float) -> Message | None:
        """The next request, or None if there is none within `seconds`."""
        deadline = time.monotonic() + seconds
        while (message := self._decoder.next()) is None:
            self.socket.settimeout(max(0.0, deadline - time.monotonic()))
            try:
                data = self.socket.recv(self._decoder.wanted)
            except (TimeoutError, BlockingIOError):
                return None
            if not data:
                raise BackEndClosedError("the back-end has closed its channel")
            self._decoder.feed(data)
        return message

    def take(self) -> list[Message]:
        """Take the requests that have arrived, and answer each."""
        messages = []
        while (message := self.receive(0)) is not None:
            self.answer(message)
            messages.append(message)
        return messages

    def answer(self, message: Message, result: int = 0) -> None:
        """Answer a request's result, if it asked for an answer; 0 is success."""
        if message.need_reply:
            self.socket.settimeout(self._timeout)
            answer = Message(message.request, U64.pack(result), VERSION | REPLY)
            self.socket.sendall(encode(answer))

    def close(self) -> None:
        """Close the ends that are still ours."""
        self._decoder.close()
        self._far.close()
        self.socket.close()
