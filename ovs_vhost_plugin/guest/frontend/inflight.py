# SPDX-License-Identifier: Apache-2.0
"""The in-flight region that a front-end keeps for its back-ends, and that outlives them.

vhost-user "Inflight I/O tracking". A back-end makes the region, the front-end holds it and gives it
to every back-end that serves the device afterwards, before the rings start.
"""

from __future__ import annotations

import mmap
import os

from ovs_vhost_plugin.guest.frontend.connection import BackEndError, FrontEndConnection
from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.fds.closing import close_fds
from ovs_vhost_plugin.vhost.message import Message, encode
from ovs_vhost_plugin.vhost.spec import FrontendRequest


class InflightKeeper:
    """The region for `queues` rings of `queue_size`, made by the back-end of `connection`."""

    def __init__(self, connection: FrontEndConnection, queues: int, queue_size: int) -> None:
        self._numbers = (queues, queue_size)
        payload = spec.INFLIGHT.pack(0, 0, queues, queue_size)
        connection.send_raw(encode(Message(FrontendRequest.GET_INFLIGHT_FD, payload)))
        answer = connection.receive()
        if len(answer.payload) != spec.INFLIGHT.size or len(answer.fds) != 1:
            close_fds(answer.fds)
            raise BackEndError(f"no memory for what is in flight: {answer}")
        size, self._offset, *numbers = spec.INFLIGHT.unpack(answer.payload)
        (self._fd,) = answer.fds
        if tuple(numbers) != self._numbers:
            raise BackEndError(f"memory for other queues: {numbers}")
        self.memory = mmap.mmap(self._fd, self._offset + size)

    def give(self, connection: FrontEndConnection) -> None:
        """Give the region to a back-end, whose rings are stopped."""
        payload = spec.INFLIGHT.pack(len(self.memory) - self._offset, self._offset, *self._numbers)
        connection.tell(FrontendRequest.SET_INFLIGHT_FD, payload, [self._fd], ack=True)

    def queue(self, index: int) -> memoryview:
        """The part of vring `index`."""
        stride = (len(self.memory) - self._offset) // self._numbers[0]
        return memoryview(self.memory)[self._offset + index * stride :][:stride]

    def close(self) -> None:
        """Drop the region."""
        os.close(self._fd)
