# SPDX-License-Identifier: Apache-2.0
"""The holes in the fork server's memory, filled before it forks.

A worker shares the pages of the fork server until it writes to them; then it has a copy. Its own
objects would land in holes that the start has left, each on another page. Where no hole is left
they lie together.
"""

from __future__ import annotations

import ctypes

_POOL = 16 << 10
"""Bytes from which Python serves requests of one size. Source: POOL_SIZE, Objects/obmalloc.c."""
_STEP, _LARGEST = 16, 512
"""Bytes between these sizes, and the largest; malloc serves what is larger."""
_BYTES_HEADER = b"".__sizeof__()
_MOST = 1 << 20
"""Bytes of holes of one size. With another allocator than these two the end would not be found."""
_AT_ONCE = 16  # chunks of malloc between two looks at its state
_CHUNK_HEADER = 8
_CHUNKS = (*(1 << n for n in range(16, 9, -1)), *range(1008, 16, -16))
"""Bytes of malloc's chunks, with their headers: the large holes are filled first."""

_kept: list[bytes] = []


class _Mallinfo2(ctypes.Structure):
    """Source: mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def fill() -> None:
    """Take what is free, but for what lies at the end; it is never given back."""
    for size in range(_BYTES_HEADER // _STEP * _STEP + _STEP, _LARGEST + 1, _STEP):
        _fill_pools(size)
    _fill_heap()


def _fill_pools(size: int) -> None:
    """Allocate objects of `size` bytes until they fill a pool from its beginning to its end."""
    whole = _POOL // size - 2  # a pool has a header
    last = in_a_row = 0
    for _ in range(_MOST // size):
        one = bytes(size - _BYTES_HEADER)
        _kept.append(one)
        in_a_row = in_a_row + 1 if id(one) - last == size else 0
        last = id(one)
        if in_a_row == whole:
            return


def _fill_heap() -> None:
    """Allocate chunks until they come from the end of the heap, where malloc has no hole left."""
    libc = ctypes.CDLL(None)
    try:
        look = libc.mallinfo2
    except AttributeError:  # not glibc 2.33
        return
    look.restype = _Mallinfo2
    malloc = libc.malloc
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    for size in _CHUNKS:
        for _ in range(_MOST // size // _AT_ONCE + 1):
            before = look()
            for _ in range(_AT_ONCE):
                malloc(size - _CHUNK_HEADER)
            after = look()
            if (after.arena, after.keepcost) != (before.arena, before.keepcost):
                break
