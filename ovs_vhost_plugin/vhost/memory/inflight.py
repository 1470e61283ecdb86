# SPDX-License-Identifier: Apache-2.0
"""The in-flight region, in which a front-end keeps in-flight I/O: its layout, making and mapping.

vhost-user "Inflight I/O tracking": one part for each vring, one after the other. The data path
writes their content, whose structs are in `common/inflight_layout.py`.
"""

import fcntl
import os

from ovs_vhost_plugin.common.inflight_layout import layout_of
from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.effects import InflightDescription
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.fds.closing import close_fds
from ovs_vhost_plugin.vhost.fds.kept import KeptFd
from ovs_vhost_plugin.vhost.memory import mapping

_WORD = 8
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def stride(queue_size: int, *, packed: bool) -> int:
    """Bytes from one queue's part to the next."""
    length = layout_of(packed=packed).length(queue_size)
    return -(-length // spec.INFLIGHT_ALIGN) * spec.INFLIGHT_ALIGN


MAX_BYTES = (spec.VRING_INDEX_MASK + 1) * stride(spec.MAX_VRING_SIZE, packed=True)
"""Bytes of the largest region: every vring index, packed, each of the largest size."""


def make(queues: int, queue_size: int, *, packed: bool) -> tuple[int, int]:
    """Make a sealed file of zeros for so many queues: its fd, and its size in bytes.

    The seals keep anybody from shrinking it; it takes memory only as it is written. Raises
    PeerError where the file cannot be made.
    """
    size = queues * stride(queue_size, packed=packed)
    fd = -1
    try:
        fd = os.memfd_create("ovs-vhost-inflight", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        close_fds([fd] if fd >= 0 else [])
        raise PeerError(PeerErrorName.INFLIGHT_NO_MEMORY, str(error.strerror)) from error
    return fd, size


class Inflight:
    """The region that `description` gives, mapped from `fd`, which it takes and keeps.

    It stays mapped as long as somebody holds a part. Its layout (split or packed) is known only
    when rings start; a region too small for packed rings is an error only then. Raises PeerError.
    """

    def __init__(self, description: InflightDescription, fd: int) -> None:
        self._queues = description.queues
        self._queue_size = description.queue_size
        self.description, self.fd = description, KeptFd(fd)
        try:
            self._bytes = _map(description, fd)
        except BaseException:
            self.fd.close()
            raise

    def part(self, index: int, size: int, *, packed: bool) -> mapping.Bytes | None:
        """The part of vring `index` of `size` descriptors, or None. Raises PeerError.

        A driver may make its ring smaller than the region allows.
        """
        if index >= self._queues:
            return None
        if size > self._queue_size:
            detail = f"vring {index} of {size}, {self._queue_size} kept"
            raise PeerError(PeerErrorName.INFLIGHT_QUEUE_SIZE, detail)
        length = layout_of(packed=packed).length(self._queue_size)
        step = stride(self._queue_size, packed=packed)
        if len(self._bytes) < self._queues * step:
            detail = f"{len(self._bytes):#x}, {self._queues * step:#x} needed"
            raise PeerError(PeerErrorName.INFLIGHT_TOO_SMALL, detail)
        return self._bytes[index * step : index * step + length]

    def close(self) -> None:
        """Drop the mapping, and close the fd."""
        self.fd.close()
        self._bytes = self._bytes[:0].copy()


def _map(description: InflightDescription, fd: int) -> mapping.Bytes:
    size, offset = description.size, description.offset
    seen = f"size {size:#x}, offset {offset:#x}"
    if size + offset > 1 << 64:
        raise PeerError(PeerErrorName.INFLIGHT_OFFSET_WRAPS, seen)
    if offset % _WORD:
        raise PeerError(PeerErrorName.INFLIGHT_MISALIGNED, seen)
    needed = description.queues * stride(description.queue_size, packed=False)
    if size < needed:
        raise PeerError(PeerErrorName.INFLIGHT_TOO_SMALL, f"{seen}, {needed:#x} needed")
    try:
        return mapping.map_shared(fd, offset, size)
    except mapping.TooShortError as error:
        raise PeerError(PeerErrorName.INFLIGHT_FILE_TOO_SHORT, str(error)) from error
    except OSError as error:
        raise PeerError(PeerErrorName.INFLIGHT_MAP_FAILED, f"{seen}: {error.strerror}") from error
