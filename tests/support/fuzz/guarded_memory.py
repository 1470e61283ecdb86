# SPDX-License-Identifier: Apache-2.0
"""Memory that ends where it ends: behind it and before it are pages that nobody may touch.

One byte too far is a SIGSEGV. Before a region that does not begin with a page are bytes that must
stay as they are, which `check` looks at.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.jit.ring_reference import GuestMemory

_PAGE = mmap.PAGESIZE
_NONE, _READ_WRITE = 0, mmap.PROT_READ | mmap.PROT_WRITE
_CANARY = 0xC5

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Guarded:
    """`size` bytes that end with a page, between two pages without access."""

    def __init__(self, size: int) -> None:
        pages = max(1, -(-size // _PAGE))
        # The mapping lives as long as an array over it.
        whole = np.frombuffer(mmap.mmap(-1, (pages + 2) * _PAGE), np.uint8)
        usable = whole[_PAGE : (pages + 1) * _PAGE]
        self._before = usable[: len(usable) - size]
        self._before[:] = _CANARY
        self.bytes: NDArray[np.uint8] = usable[len(usable) - size :]
        for at in (0, (pages + 1) * _PAGE):
            if _libc.mprotect(whole.ctypes.data + at, _PAGE, _NONE):
                raise OSError(ctypes.get_errno(), "mprotect")

    def check(self) -> None:
        """AssertionError if something was written before the region."""
        assert (self._before == _CANARY).all(), "written before the region"


class GuardedMemory(GuestMemory):
    """Guest memory whose regions [(guest address, size)] are guarded, each for itself."""

    def __init__(self, *regions: tuple[int, int]) -> None:
        self.sizes = dict(regions)
        self._guarded = {guest: Guarded(size) for guest, size in sorted(regions)}
        self.parts = [(guest, guarded.bytes) for guest, guarded in self._guarded.items()]

    def host(self, guest: int) -> int:
        start, array = self._part(guest, 1)
        return int(array.ctypes.data) + guest - start

    def view(self, guest: int, length: int) -> NDArray[np.uint8]:
        start, array = self._part(guest, length)
        return array[guest - start : guest - start + length]

    def _part(self, guest: int, length: int) -> tuple[int, NDArray[np.uint8]]:
        for start, array in self.parts:
            if start <= guest and guest + length <= start + len(array):
                return start, array
        raise KeyError(hex(guest))

    def check(self) -> None:
        for guarded in self._guarded.values():
            guarded.check()


def guarded_zeros(shape: Any, dtype: Any = float) -> NDArray[Any]:
    """As numpy.zeros, in guarded memory."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    data = Guarded(size).bytes
    data[:] = 0
    return data.view(kind).reshape(shape)
