# SPDX-License-Identifier: Apache-2.0
"""Scattered guest pages mapped a second time as one array, for rings behind an IOMMU.

A guest with an IOMMU makes a ring of pages from anywhere; only their IOVAs are contiguous. The
compiled code takes each part of a ring for one array, so the pages are made contiguous in this
process too: mremap(2) with an old size of 0 maps the pages of a shared mapping a second time.
"""

import ctypes
import errno
import mmap
import os
from collections.abc import Sequence

import numpy as np

from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.memory import mapping
from ovs_vhost_plugin.vhost.memory.iotlb import Iotlb
from ovs_vhost_plugin.vhost.memory.table import MemoryTable
from ovs_vhost_plugin.vhost.spec import IotlbAccess

_PAGE = mmap.PAGESIZE
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2  # <linux/mman.h>
_FAILED = ctypes.c_void_p(-1).value

_mremap = ctypes.CDLL(None, use_errno=True).mremap
_mremap.restype = ctypes.c_void_p
_mremap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p),
)


def translated_view(
    memory: MemoryTable,
    iotlb: Iotlb,
    iova: int,
    length: int,
    align: int,
    access: IotlbAccess,
) -> mapping.Bytes:
    """`length` bytes at `iova` as one array, aligned to `align` as by `MemoryTable.view`.

    Raises MissingError, and PeerError where the bytes cannot be mapped as one array.
    """
    if iova + length > 1 << 64:
        raise PeerError(PeerErrorName.VRING_ADDRESS_WRAPS, f"{length} bytes at {iova:#x}")
    pieces = iotlb.lookup(iova, length, access)
    if len(pieces) == 1:
        return memory.view(*pieces[0], align)
    views = [memory.view(user, part, 1) for user, part in pieces]
    try:
        joined = join(views)
    except OSError as error:
        detail = f"{length} bytes at {iova:#x} in {len(pieces)} pieces: {error.strerror}"
        raise PeerError(PeerErrorName.VRING_CROSSES_REGION, detail) from error
    if mapping.address(joined) % align:
        raise PeerError(PeerErrorName.VRING_MISALIGNED, f"{length} bytes at {iova:#x}")
    return joined


def join(views: Sequence[mapping.Bytes]) -> mapping.Bytes:
    """The bytes of `views` as one array, over the same pages; it keeps its mapping alive.

    Each view but the first begins on a page boundary, each but the last ends on one. Raises
    OSError where that is not so, or the pages are huge ones.
    """
    places = [(mapping.address(view), len(view)) for view in views]
    skipped = places[0][0] % _PAGE
    total = skipped + sum(length for _, length in places)
    room = mmap.mmap(-1, -(-total // _PAGE) * _PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    joined = np.frombuffer(room, dtype=np.uint8)
    target = mapping.address(joined) + skipped
    for number, (address, length) in enumerate(places):
        if number and (address % _PAGE or target % _PAGE):
            raise OSError(errno.EINVAL, "pieces that do not begin with a page")
        start = address - address % _PAGE
        pages = -(-(address + length - start) // _PAGE)
        _map_again(start, pages * _PAGE, target - target % _PAGE)
        target += length
    return joined[skipped:total]


def _map_again(start: int, size: int, target: int) -> None:
    flags = _MREMAP_MAYMOVE | _MREMAP_FIXED
    if _mremap(start, 0, size, flags, target) == _FAILED:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
