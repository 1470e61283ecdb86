# SPDX-License-Identifier: Apache-2.0
"""The dirty log: a bitmap in memory shared with the front-end, one bit for each 4096-byte page.

vhost-user "Migration": bit `address / 4096` of the log, counted from its first byte's lowest
bit, marks the page at a guest address as written. The front-end reads and clears bits while the
rings run, so the compiled code sets them by atomic operations only.
"""

from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.fds.kept import KeptFd
from ovs_vhost_plugin.vhost.memory import mapping
from ovs_vhost_plugin.vhost.spec import LOG_PAGE


class DirtyLog:
    """A mapped log of `size` bytes at `offset` of `fd`, which it takes and keeps.

    `bitmap` is an array of bytes; it stays mapped as long as somebody holds it.
    """

    def __init__(self, size: int, offset: int, fd: int) -> None:
        self.place, self.fd = (size, offset), KeptFd(fd)
        try:
            self.bitmap = _map(size, offset, fd)
        except BaseException:
            self.fd.close()
            raise

    def require(self, guest_end: int) -> None:
        """Raise PeerError if the log does not cover guest addresses up to `guest_end`."""
        if len(self.bitmap) * 8 * LOG_PAGE < guest_end:
            detail = f"{len(self.bitmap)} bytes for addresses up to {guest_end:#x}"
            raise PeerError(PeerErrorName.LOG_SMALLER_THAN_MEMORY, detail)

    def close(self) -> None:
        """Drop the mapping, and close the fd."""
        self.fd.close()
        self.bitmap = self.bitmap[:0].copy()


def _map(size: int, offset: int, fd: int) -> mapping.Bytes:
    seen = f"size {size:#x}, offset {offset:#x}"
    if size == 0:
        raise PeerError(PeerErrorName.LOG_SIZE_ZERO, seen)
    if size + offset > 1 << 64:
        raise PeerError(PeerErrorName.LOG_OFFSET_WRAPS, seen)
    try:
        return mapping.map_shared(fd, offset, size)
    except mapping.TooShortError as error:
        raise PeerError(PeerErrorName.LOG_FILE_TOO_SHORT, str(error)) from error
    except OSError as error:
        raise PeerError(PeerErrorName.LOG_MAP_FAILED, f"{seen}: {error.strerror}") from error
