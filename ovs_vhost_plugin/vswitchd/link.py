# SPDX-License-Identifier: Apache-2.0
"""A kept unix stream connection to ovs-vswitchd that never blocks and comes back by itself.

OpenFlow and the control socket both stand on it.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from typing import Protocol

from ovs_vhost_plugin.common.backoff import Backoff

FIRST_RETRY, LAST_RETRY = 0.05, 1.0
"""Seconds from a loss to the next attempt: doubling from the first to the last."""
MAX_UNSENT = 256 * 1024  # a peer that reads nothing for that long does not work
RECEIVE_SIZE = 64 * 1024


class Poller(Protocol):
    """The part of `ovs.poller.Poller` that is used; times are CLOCK_MONOTONIC milliseconds."""

    def fd_wait(self, fd: int, events: int) -> None:
        """Wake when `fd` is ready for `events` (select.POLLIN, select.POLLOUT)."""

    def timer_wait_until(self, msec: float) -> None:
        """Wake at `msec`."""


class LinkLost(Exception):  # noqa: N818 - an event of a connection's life, not a mistake
    """There is no connection (any more); the message says why."""


class Link:
    """A connection to the socket that `locate` names, made anew with pauses when it is lost.

    `locate` is asked for every attempt, because a restarted ovs-vswitchd has another path; its
    OSError or ValueError is a failed attempt.
    """

    def __init__(self, locate: Callable[[], str]) -> None:
        self._locate = locate
        self._socket: socket.socket | None = None
        self._unsent = b""
        self._backoff = Backoff(FIRST_RETRY, LAST_RETRY)
        self.error = "not connected yet"  # why there is no connection

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._socket is not None

    def connect(self, now: float) -> bool:
        """Try to connect if it is time to; tell whether a connection was made."""
        if self._socket is not None or now < self._backoff.retry_at:
            return False
        attempt = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            # connecting a unix socket takes effect or fails at once (EAGAIN: the backlog is full)
            attempt.connect(self._locate())
        except (OSError, ValueError) as error:
            attempt.close()
            self.lose(_reason(error), now)
            return False
        self._socket = attempt
        return True

    def worked(self) -> None:
        """Note that the connection works: the pauses after the next loss begin anew."""
        self._backoff = self._backoff.worked()

    def lose(self, reason: str, now: float) -> None:
        """Close the connection; the next attempt is due after a pause."""
        self.close()
        self.error = reason
        self._backoff = self._backoff.failed(now)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._unsent = b""

    def send(self, data: bytes) -> None:
        """Send what the socket takes now, keep the rest. Raises LinkLost."""
        if self._socket is None:
            raise LinkLost(self.error)
        pending = self._unsent + data
        try:
            while pending:
                pending = pending[self._socket.send(pending) :]
        except BlockingIOError:
            if len(pending) > MAX_UNSENT:
                raise LinkLost("the peer does not read") from None
        except OSError as error:
            raise LinkLost(_reason(error)) from None
        self._unsent = pending

    def receive(self) -> bytes:
        """Return up to RECEIVE_SIZE bytes that are there, b"" for none yet. Raises LinkLost."""
        if self._socket is None:
            raise LinkLost(self.error)
        try:
            data = self._socket.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise LinkLost(_reason(error)) from None
        if not data:
            raise LinkLost("closed by the peer")
        return data

    def wait(self, poller: Poller) -> None:
        """Register for readiness or for the next attempt."""
        if self._socket is None:
            poller.timer_wait_until(self._backoff.retry_at * 1e3)
        else:
            events = select.POLLIN | (select.POLLOUT if self._unsent else 0)
            poller.fd_wait(self._socket.fileno(), events)


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error)
