# SPDX-License-Identifier: Apache-2.0
"""Calls and errors as messages, for front-ends without eventfds (INBAND_NOTIFICATIONS).

The data path knows nothing of it: it signals eventfds, which are ours here, and each that was
signalled becomes a message. vhost-user "In-band notifications" wants each to be acknowledged; until
it is, the eventfd counts what follows, so that a ring has one message under way at most.
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
    """The eventfds of one session's rings that are told of on its back-end channel."""

    def __init__(self, selector: selectors.BaseSelector, channel: BackEndChannel) -> None:
        self._selector = selector
        self._channel = channel
        self._fds: dict[tuple[BackendRequest, int], int] = {}
        self._listening: set[int] = set()  # those of them that the loop waits for

    def follow(self, vring: VringState) -> None:
        """Watch what `vring` has now; its former fds are still open."""
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
        """There is a channel, perhaps a new one: what was told on another may not have arrived."""
        for key, fd in self._fds.items():
            if fd not in self._listening:
                os.eventfd_write(fd, 1)
                self._listen(*key)

    def forget(self) -> None:
        """The session ends, and its eventfds with it."""
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
        """A ring called or broke. What cannot be told now is told when a channel opens."""
        fd = self._fds[request, index]
        os.eventfd_read(fd)
        self._deafen(fd)
        # vhost-user VHOST_USER_BACKEND_VRING_CALL: "state.num is reserved and must be set to 0".
        payload = spec.VRING_STATE.pack(index, 0)
        self._channel.ask(request, payload, lambda _: self._listen(request, index))
