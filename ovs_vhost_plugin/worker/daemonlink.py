# SPDX-License-Identifier: Apache-2.0
"""The worker's side of the control socket: a daemon connects, says hello, and commands.

Reports go another way, by the pipe that comes with the daemon's hello (`outbox.py`).
"""

from __future__ import annotations

import os
import select
import selectors
import socket
from collections.abc import Callable, Sequence

from ovs_vhost_plugin.ipc import commands
from ovs_vhost_plugin.ipc.channel import Channel, ChannelClosed
from ovs_vhost_plugin.ipc.codec import MessageError, UnknownKindError
from ovs_vhost_plugin.ipc.commands import Command, DaemonHello

Handler = Callable[[Command, Sequence[int]], None]


class DaemonLink:
    """At most one daemon, the newest to connect."""

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        handle: Handler,
        on_leave: Callable[[], None],
    ) -> None:
        """`handle` takes a command and its fds; `on_leave` is called when a daemon has gone."""
        self._listener = listener
        self._selector = selector
        self._handle = handle
        self._on_leave = on_leave
        self._channel: Channel | None = None
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, self._accept)

    def await_end(self, seconds: float) -> None:
        """Wait until the daemon has gone, or says something; obey nothing any more."""
        if self._channel is not None:
            select.select([self._channel], [], [], seconds)

    def _accept(self, _now: float) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        self._drop()
        self._channel = Channel(sock, max_fds=DaemonHello.FDS)
        self._selector.register(self._channel, selectors.EVENT_READ, self._receive)

    def _receive(self, _now: float) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            for said, fds in channel.receive():
                if self._channel is not channel:
                    _close_all(fds)
                    continue
                try:
                    command = commands.decode(said, fds)
                except UnknownKindError:
                    _close_all(fds)  # of a later daemon, which can do without an answer
                except MessageError:
                    # The daemon sees the end, and ends this worker.
                    _close_all(fds)
                    self._drop()
                else:
                    self._handle(command, fds)
        except ChannelClosed:
            self._drop()

    def _drop(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            self._selector.unregister(channel)
            channel.close()
            self._on_leave()


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
