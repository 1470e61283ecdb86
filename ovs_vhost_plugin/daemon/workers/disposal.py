# SPDX-License-Identifier: Apache-2.0
"""Fds that a peer has touched, on their way to a process that closes them while nobody waits.

The last close(2) of a socket closes what lies in its queue unread, and a peer may have sent what
takes its time to close.
"""

import os

from ovs_vhost_plugin.ipc import births
from ovs_vhost_plugin.ipc.births import Dispose
from ovs_vhost_plugin.ipc.channel import Channel, ChannelClosed

MOST = 64
"""Fds that wait for a nursery before no more of them are made."""


class Disposal:
    """Fds to be closed elsewhere."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def take(self, fd: int) -> None:
        """Take an fd."""
        self._fds.append(fd)

    @property
    def waiting(self) -> bool:
        """Whether there is something to pass on."""
        return bool(self._fds)

    @property
    def full(self) -> bool:
        """Whether peers' sockets are better not opened now: nobody is there to close them."""
        return len(self._fds) >= MOST

    def pass_on(self, nursery: Channel) -> None:
        """Hand over as many as the nursery takes now; one that is dead is for its owner to see."""
        while self._fds:
            fd = self._fds[0]
            try:
                if not nursery.send_now(births.encode_request(Dispose()), [fd]):
                    return
            except ChannelClosed:
                return
            os.close(fd)  # never the last: the nursery has it
            del self._fds[0]
