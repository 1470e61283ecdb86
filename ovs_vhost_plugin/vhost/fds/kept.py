# SPDX-License-Identifier: Apache-2.0
"""A peer's fd that stays open beside the mapping that was made of it.

Another process can map the same file only by an fd, so a worker that is replaced gives its fds to
the next one (`worker/handover/`).
"""

from ovs_vhost_plugin.vhost.fds.closing import close_fds


class KeptFd:
    """The fd `number`, closed when nobody holds this object any more, or by `close`."""

    def __init__(self, number: int) -> None:
        self.number = number

    def close(self) -> None:
        """Close the fd; closing it again does nothing."""
        number, self.number = self.number, -1
        if number >= 0:
            close_fds([number])

    def __del__(self) -> None:
        self.close()
