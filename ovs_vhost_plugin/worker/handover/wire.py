# SPDX-License-Identifier: Apache-2.0
"""The socket between a worker and its successor: a message a packet, each awaited for a time."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Sequence
from typing import Generic, TypeVar

from ovs_vhost_plugin.ipc.channel import ChannelClosed, decode_object, encode_object, receive_packet
from ovs_vhost_plugin.ipc.codec import MessageError, Messages

Sent = TypeVar("Sent")
Heard = TypeVar("Heard")


class HandoverError(Exception):
    """A handover that failed; the text says why."""


class PeerGoneError(HandoverError):
    """The other side has closed the socket."""


class HandoverSocket(Generic[Sent, Heard]):
    """One end of the SOCK_SEQPACKET socket `fd`, which this takes over."""

    def __init__(
        self, fd: int, sends: Messages[Sent], hears: Messages[Heard], *, most_fds: int
    ) -> None:
        self._sock = socket.socket(fileno=fd)
        self._sends, self._hears = sends, hears
        self._most_fds = most_fds

    def fileno(self) -> int:
        """The socket, for a poll loop; -1 when closed."""
        return self._sock.fileno()

    def send(self, message: Sent, until: float, fds: Sequence[int] = ()) -> None:
        """Send a message; the fds stay the caller's. Raises HandoverError, also at `until`."""
        self._patient(until)
        try:
            socket.send_fds(self._sock, [encode_object(self._sends.encode(message))], fds)
        except TimeoutError:
            raise HandoverError("the other worker does not read") from None
        except OSError as error:
            raise PeerGoneError(f"the other worker has gone: {error.strerror}") from None

    def receive(self, until: float) -> tuple[Heard, list[int]]:
        """The next message, and its fds, which become the caller's. Raises as `send`."""
        self._patient(until)
        try:
            packet, fds, flags = receive_packet(self._sock, self._most_fds)
        except TimeoutError:
            raise HandoverError("the other worker says nothing") from None
        except OSError as error:
            raise PeerGoneError(f"the other worker has gone: {error.strerror}") from None
        try:
            if not packet:
                raise PeerGoneError("the other worker has gone")
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise HandoverError("a message of too many bytes or fds")
            return self._hears.decode(decode_object(packet, "a message")), fds
        except BaseException as error:
            for fd in fds:
                os.close(fd)
            if isinstance(error, MessageError | ChannelClosed):
                raise HandoverError(str(error)) from None
            raise

    def close(self) -> None:
        """Close the socket; the other side sees it."""
        with contextlib.suppress(OSError):
            self._sock.close()

    def _patient(self, until: float) -> None:
        self._sock.settimeout(max(until - time.monotonic(), 0.001))
