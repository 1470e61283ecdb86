# SPDX-License-Identifier: Apache-2.0
"""The worker's link to its front-end: gets one connection at a time, by asking or listening.

A worker sees no file system, so the daemon connects it (`daemon/connector.py`).

The session decides, the device acts, and this link moves messages between them and the socket. A
front-end that misbehaves loses its connection. Reconnecting backs off, so that a front-end cannot
cause a storm, also not by hanging up: QEMU hangs up without end when it wants more than is offered,
and says why only in its own log.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from dataclasses import replace

from ovs_vhost_plugin.common.backoff import Backoff
from ovs_vhost_plugin.ipc.reports import AskConnection
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.fds.closing import close_fds
from ovs_vhost_plugin.vhost.features import Offer
from ovs_vhost_plugin.vhost.session import Session
from ovs_vhost_plugin.vhost.transport import Connection, ConnectionClosed
from ovs_vhost_plugin.worker.complaints import Complaints
from ovs_vhost_plugin.worker.device.device import Device
from ovs_vhost_plugin.worker.outbox import Outbox

_FIRST_RETRY = 0.1  # seconds
_RETRY_GONE = 1.0  # a front-end that hung up, as a VM that boots does
_RETRY_REFUSED = 10.0  # a front-end that breaks the protocol
_GOOD_AFTER = 5.0  # a connection that lasted this long starts the back-off anew
_STORM = 5  # connections in vain, one after the other, that are no chance any more


class FrontEndLink:
    """One port's socket and the session on it."""

    def __init__(
        self,
        path: str,
        listener: socket.socket | None,
        device: Device,
        selector: selectors.BaseSelector,
        *,
        outbox: Outbox,
        complaints: Complaints,
        make_offer: Callable[[], Offer],
        awaited_until: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Without `listener`, the daemon is asked for a connection, which comes by `adopt`.

        `awaited_until` returns the time until which no front-end is to be connected.
        """
        self.path = path
        self.session: Session | None = None
        self.connections = 0
        self._listener = listener
        self._device = device
        self._selector = selector
        self._make_offer = make_offer
        self._outbox = outbox
        self._complaints = complaints
        self._awaited_until = awaited_until
        self._accepting = False
        self._connection: Connection | None = None
        self._connected_at = 0.0
        self._ask_at: float | None = None
        self._backoff = Backoff(_FIRST_RETRY, _RETRY_GONE, _GOOD_AFTER)
        self._in_vain = 0  # latest connections that ended early, before any ring had run
        self._accept_from = 0.0
        if listener is not None:
            listener.setblocking(False)
        else:
            self._ask_at = 0.0

    @property
    def status(self) -> str:
        """One word for external_ids:vhost-user-status."""
        if self._connection is None:
            return "listening" if self._listener is not None else "connecting"
        return "running" if self._device.running else "connected"

    # -- getting connected -----------------------------------------------------------------------

    def get_timer(self) -> float | None:
        """The time at which `handle_timer` has something to do; None: it has nothing."""
        if self._listener is not None:
            at = None if self._accepting else self._accept_from
        else:
            at = self._ask_at
        return None if at is None else max(at, self._awaited_until())

    def handle_timer(self, now: float) -> None:
        """Ask for a connection, or let front-ends connect, when it is time."""
        patient = now < self._awaited_until()
        if self._listener is not None:
            self._let_connect(self._listener, now >= self._accept_from and not patient)
        elif self._ask_at is not None and now >= self._ask_at and not patient:
            self._ask_at = None
            self._outbox.keep(AskConnection())

    def _let_connect(self, listener: socket.socket, accepting: bool) -> None:
        if accepting and not self._accepting:
            self._selector.register(listener, selectors.EVENT_READ, self._accept)
        elif self._accepting and not accepting:
            self._selector.unregister(listener)
        self._accepting = accepting

    def adopt(self, sock: socket.socket, now: float) -> None:
        """Serve a connected socket, accepted here or sent by the daemon."""
        if self._connection is not None:
            close_fds([sock.detach()])
            return
        self._ask_at = None
        self._outbox.forget(AskConnection)
        self._connected_at = now
        self.connections += 1
        self._connection = Connection(sock)
        self.session = Session(self._make_offer())
        self._device.attach(self.session)
        self._selector.register(sock, selectors.EVENT_READ, self._serve)

    @property
    def idle(self) -> bool:
        """Whether no message is half received or half sent."""
        return self._connection is None or self._connection.idle

    @property
    def connected(self) -> tuple[int, float] | None:
        """The connection's socket, and since when it is there; None: there is none."""
        connection = self._connection
        return None if connection is None else (connection.fileno(), self._connected_at)

    def take_over(self, sock: socket.socket, offered: Offer, since: float) -> Session:
        """Serve a connection that another process has served; return its session, still empty."""
        self._ask_at, self._connected_at = None, since
        self._connection, self.session = Connection(sock), Session(offered)
        self._device.attach(self.session)
        self._selector.register(sock, selectors.EVENT_READ, self._serve)
        return self.session

    def _accept(self, now: float) -> None:
        assert self._listener is not None
        if self._connection is not None:
            # If the front-end hung up and connects again at once, the end is read first.
            self._serve(now)
        if now < self._accept_from:
            return
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # the peer has gone again
        if self._connection is not None:
            close_fds([sock.detach()])
            self._complaints.note(
                PeerError(PeerErrorName.SECOND_FRONT_END, "the first one is connected")
            )
            return
        self.adopt(sock, now)

    def _schedule(self, now: float, longest: float) -> None:
        if self._listener is None:
            lived = now - self._connected_at
            self._backoff = replace(self._backoff, last=longest).failed(now, lived)
            self._ask_at = self._backoff.retry_at
        elif self._in_vain >= _STORM:
            # Counted from the connection, so a peer that comes by a timer finds us accepting. QEMU
            # and its guest stand still until QEMU is answered.
            self._accept_from = self._connected_at + _RETRY_GONE

    # -- serving ---------------------------------------------------------------------------------

    def _serve(self, now: float) -> None:
        connection = self._connection
        assert connection is not None
        try:
            connection.flush()
            for message in connection.receive():
                reply = self._device.answer(message)
                if reply is not None:
                    connection.send(reply)
            self._device.start_pending()
            events = selectors.EVENT_READ
            if connection.wants_write:
                events |= selectors.EVENT_WRITE
            self._selector.modify(connection.fileno(), events, self._serve)
        except ConnectionClosed:
            self._hung_up(now)
            self._disconnect(now, _RETRY_GONE)
        except PeerError as error:
            self._complaints.note(error)
            self._disconnect(now, _RETRY_REFUSED)

    def _hung_up(self, now: float) -> None:
        """Note that a front-end gives up, with the reason as far as it is known."""
        session = self.session
        if session is None or self._good(now):
            return
        if session.refused:
            return  # the refusal has a name
        if session.counted_pairs and not session.set_up:
            pairs = session.offer.queue_pairs
            why = f"it asked how many queue pairs there are ({pairs}) and hung up"
        elif self._in_vain + 1 >= _STORM:
            why = "it connects and hangs up again and again before any ring has run"
        else:
            return
        advice = "its own log says why; for more pairs raise external_ids:vhost-user-queues"
        self._complaints.note(PeerError(PeerErrorName.FRONT_END_GIVES_UP, f"{why}: {advice}"))

    def _good(self, now: float) -> bool:
        """Whether the connection was of use: a ring has run, or the connection lasted."""
        return self._device.rings.has_run or now - self._connected_at > _GOOD_AFTER

    def _disconnect(self, now: float, longest: float) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._selector.unregister(connection.fileno())
        self._in_vain = 0 if self._good(now) else self._in_vain + 1
        self._device.detach()
        self.session = None
        connection.close()
        self._schedule(now, longest)

    def close(self, now: float) -> None:
        """Stop the rings and let the front-end go."""
        self._disconnect(now, _RETRY_GONE)
        self._ask_at = None
