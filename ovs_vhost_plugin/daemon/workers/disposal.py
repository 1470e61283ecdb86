# SPDX-License-Identifier: Apache-2.0
"""The disposal of fds that a peer has touched: a process of its own closes them.

The last close(2) of a socket closes the unread fds in its queue, and a peer may have sent fds that
take long to close.
"""

import os

from ovs_vhost_plugin.ipc import births
from ovs_vhost_plugin.ipc.births import Dispose
from ovs_vhost_plugin.ipc.channel import Channel, ChannelClosed

MOST = 64
"""The most fds that wait for a fork server; then no more of them are made."""


class Disposal:
    """Fds to be closed elsewhere."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def take(self, fd: int) -> None:
        """Take over an fd."""
        self._fds.append(fd)

    @property
    def waiting(self) -> bool:
        """Whether fds wait to be passed on."""
        return bool(self._fds)

    @property
    def full(self) -> bool:
        """Whether no more peers' sockets should be opened: there is no process to close them."""
        return len(self._fds) >= MOST

    def pass_on(self, fork_server: Channel) -> None:
        """Send as many fds as the fork server takes now; its owner sees it if it is dead."""
        while self._fds:
            fd = self._fds[0]
            try:
                if not fork_server.send_now(births.encode_request(Dispose()), [fd]):
                    return
            except ChannelClosed:
                return
            os.close(fd)  # never the last close: the fork server has a copy
            del self._fds[0]
