# SPDX-License-Identifier: Apache-2.0
"""Calls and errors as messages, for front-ends without eventfds (INBAND_NOTIFICATIONS).

The data path knows nothing of these messages. It signals eventfds, which are ours here, and each
signalled eventfd becomes a message. vhost-user "In-band notifications" requires an acknowledgement
of each message. Until it comes, the eventfd counts further signals, so a ring has at most one
message under way.
"""

from __future__ import annotations

import os
import selectors
from functools import partial

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.spec import BackendRequest
from ovs_vhost_plugin.vhost.state import VringState
from ovs_vhost_plugin.worker.backend import BackEndChannel


class InBand:
    """The eventfds of one session whose signals become messages on its back-end channel."""

    def __init__(self, selector: selectors.BaseSelector, channel: BackEndChannel) -> None:
        self._selector = selector
        self._channel = channel
        self._fds: dict[tuple[BackendRequest, int], int] = {}
        self._listening: set[int] = set()  # fds registered with the selector

    def follow(self, vring: VringState) -> None:
        """Watch the present fds of `vring`; its former fds are still open."""
        wanted = {
            BackendRequest.VRING_CALL: vring.call_fd if vring.inband_call else -1,
            BackendRequest.VRING_ERR: vring.err_fd if vring.inband_err else -1,
        }
        for request, fd in wanted.items():
            key = request, vring.index
            former = self._fds.pop(key, -1)
            if former != fd:
                self._deafen(former)
            if fd >= 0:
                self._fds[key] = fd
            if fd not in (-1, former):
                self._listen(*key)

    def channel_opened(self) -> None:
        """Send again on a channel that has opened: messages on an earlier one may be lost."""
        for key, fd in self._fds.items():
            if fd not in self._listening:
                os.eventfd_write(fd, 1)
                self._listen(*key)

    def forget(self) -> None:
        """Drop the eventfds of a session that ends."""
        for fd in self._fds.values():
            self._deafen(fd)
        self._fds.clear()

    def _listen(self, request: BackendRequest, index: int) -> None:
        fd = self._fds.get((request, index), -1)
        if fd >= 0 and fd not in self._listening:
            self._listening.add(fd)
            tell = partial(self._tell, request, index)
            self._selector.register(fd, selectors.EVENT_READ, tell)

    def _deafen(self, fd: int) -> None:
        if fd in self._listening:
            self._listening.discard(fd)
            self._selector.unregister(fd)

    def _tell(self, request: BackendRequest, index: int, _now: float) -> None:
        """Send that a ring called or broke; without a channel, it is sent when one opens."""
        fd = self._fds[request, index]
        os.eventfd_read(fd)
        self._deafen(fd)
        # vhost-user VHOST_USER_BACKEND_VRING_CALL: "state.num is reserved and must be set to 0".
        payload = spec.VRING_STATE.pack(index, 0)
        self._channel.ask(request, payload, lambda _: self._listen(request, index))
