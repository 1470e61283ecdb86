# SPDX-License-Identifier: Apache-2.0
"""A shared mapping of a part of a peer's file: checked first, then mapped.

Guest memory and dirty log both come as (fd, offset, size). Touching a page beyond the file's end
raises SIGBUS, which compiled code cannot catch, so the length is checked here. A peer that
truncates its file later ends this port's own process and no other.
"""

import ctypes
import errno
import mmap
import os
import weakref

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_FAILED = ctypes.c_void_p(-1).value  # MAP_FAILED
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14


class TooShortError(Exception):
    """The file ends before the end of the part to map."""


def map_shared(fd: int, offset: int, size: int, wish: int = 0) -> Bytes:
    """Map `size` bytes at `offset` of `fd`, readable and writable; the caller still owns the fd.

    The bytes are mapped at the address `wish` if nothing is there yet; 0 is no wish.

    The array keeps the mapping alive: it is unmapped when the last view of it has gone. Raises
    TooShortError, or OSError where the file cannot be mapped at all.
    """
    length = os.fstat(fd).st_size
    if offset + size > length:
        raise TooShortError(f"{offset:#x} + {size:#x} bytes of a file of {length:#x}")
    # mmap(2): the offset has to be a multiple of the page size. On hugetlbfs offset and length
    # have to be multiples of the huge page's size, which statvfs tells.
    page = max(mmap.PAGESIZE, os.fstatvfs(fd).f_bsize)
    if page & (page - 1):
        page = mmap.PAGESIZE
    start = offset & -page
    end = min(-(-(offset + size) // page) * page, length)
    if wish:
        whole = _map_near(max(wish - (offset - start), 0), fd, start, end - start)
        return whole[offset - start :][:size]
    try:
        mapping = mmap.mmap(fd, end - start, mmap.MAP_SHARED, offset=start)
    except ValueError as error:  # the mmap module checks the length too: the file has just shrunk
        raise TooShortError(str(error)) from error
    # A core dump of this process must not carry the guest's memory.
    mapping.madvise(mmap.MADV_DONTDUMP)
    return np.frombuffer(mapping, dtype=np.uint8)[offset - start :][:size]


def _map_near(wish: int, fd: int, start: int, length: int) -> Bytes:
    """Map at an address if it is free: Python's mmap cannot ask for one. Raises OSError."""
    access = mmap.PROT_READ | mmap.PROT_WRITE
    at = _libc.mmap(wish, length, access, mmap.MAP_SHARED, fd, start)
    if at == _FAILED:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    _libc.madvise(at, length, mmap.MADV_DONTDUMP)
    pages = (ctypes.c_uint8 * length).from_address(at)
    # Not at the end of the process: threads may still be running.
    weakref.finalize(pages, _libc.munmap, at, length).atexit = False
    return np.frombuffer(memoryview(pages), dtype=np.uint8)


def populate(view: Bytes) -> bool:
    """Allocate the pages of a mapping; False: its file system is full.

    A write would end this process then. A kernel that cannot tell says nothing (madvise(2),
    MADV_POPULATE_WRITE).
    """
    at = address(view)
    start = at & -mmap.PAGESIZE
    if _libc.madvise(start, at + len(view) - start, _POPULATE_WRITE) == 0:
        return True
    return ctypes.get_errno() == errno.EINVAL


def address(view: Bytes) -> int:
    """The address of the view's first byte in this process."""
    return int(view.__array_interface__["data"][0])
