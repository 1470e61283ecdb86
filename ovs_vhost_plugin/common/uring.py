# SPDX-License-Identifier: Apache-2.0
"""An io_uring that takes requests of one kind only, made for a process that is not trusted.

From its first moment on nothing can be registered with it, and no request has flags (io_uring(7),
IORING_REGISTER_RESTRICTIONS). So who has it can do no more than by the system call of that kind.
The numbers are those of linux/io_uring.h and asm-generic/unistd.h.
"""

import ctypes
import errno
import mmap
import os
import struct

from ovs_vhost_plugin.common import process

WRITEV = 2
"""An operation."""
SLOTS = 32
"""Frames of one system call: with more, a frame costs hardly less (bench/README.md)."""
REQUEST_BYTES, COMPLETION_BYTES = 64, 16
"""Bytes of struct io_uring_sqe and struct io_uring_cqe."""

_SETUP, _REGISTER = 425, 427
_R_DISABLED = 1 << 6
_FEAT_SINGLE_MMAP = 1
_OFF_RINGS, _OFF_REQUESTS = 0, 0x1000_0000
_REGISTER_RESTRICTIONS, _REGISTER_ENABLE_RINGS = 11, 12
_RESTRICTION_SQE_OP = 1

# struct io_uring_params: entries of both queues, flags, two numbers, features, four words not used
# here; then the offsets of the parts of each queue (struct io_sqring_offsets, io_cqring_offsets)
_PARAMS_BYTES, _FLAGS_AT, _SQ_AT, _CQ_AT = 120, 8, 40, 80
_COUNTS, _OFFSETS = struct.Struct("=6I"), struct.Struct("=7I")
_RESTRICTION = struct.Struct("=HB13x")


class Uring:
    """An io_uring of `entries` requests of the kind `operation`. Raises OSError.

    fd           for io_uring_enter(2)
    sq_tail, ... addresses of the 32-bit words that the kernel shares
    order        address of the array of submissions: 32-bit indices of `requests`
    requests     address of the array of struct io_uring_sqe, all zero
    completions  address of the array of struct io_uring_cqe
    """

    def __init__(self, entries: int, operation: int) -> None:
        params = (ctypes.c_char * _PARAMS_BYTES)()
        struct.pack_into("=I", params, _FLAGS_AT, _R_DISABLED)
        self.fd = process.system_call(_SETUP, entries, params)
        try:
            _restrict(self.fd, operation)
            self._map(params)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the fd; its memory goes with this object."""
        os.close(self.fd)

    def _map(self, params: ctypes.Array[ctypes.c_char]) -> None:
        self.entries, self.most_completions, *_, features = _COUNTS.unpack_from(params)
        if not features & _FEAT_SINGLE_MMAP:  # Linux 5.4
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        _, sq_tail, _, _, _, _, order = _OFFSETS.unpack_from(params, _SQ_AT)
        cq_head, cq_tail, _, _, _, completions, _ = _OFFSETS.unpack_from(params, _CQ_AT)
        ends = order + 4 * self.entries, completions + COMPLETION_BYTES * self.most_completions
        rings = self._view(max(ends), _OFF_RINGS)
        self._views = rings, self._view(REQUEST_BYTES * self.entries, _OFF_REQUESTS)
        base, self.requests = (ctypes.addressof(view) for view in self._views)
        self.sq_tail, self.order = base + sq_tail, base + order
        self.cq_head, self.cq_tail = base + cq_head, base + cq_tail
        self.completions = base + completions

    def _view(self, size: int, offset: int) -> ctypes.Array[ctypes.c_char]:
        return (ctypes.c_char * size).from_buffer(mmap.mmap(self.fd, size, offset=offset))


def _restrict(fd: int, operation: int) -> None:
    only = _RESTRICTION.pack(_RESTRICTION_SQE_OP, operation)
    process.system_call(_REGISTER, fd, _REGISTER_RESTRICTIONS, only, 1)
    process.system_call(_REGISTER, fd, _REGISTER_ENABLE_RINGS, None, 0)
