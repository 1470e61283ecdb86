# SPDX-License-Identifier: Apache-2.0
"""The layout of a descriptor, split and packed. No other file knows it.

A descriptor has 16 bytes, which kernels see as two 64-bit words. The first is the guest address of
its buffer in both layouts. The second one differs:

    bits     0..31   32..47   48..63
    split    len     flags    next      struct virtq_desc (virtio 1.2, 2.7.5)
    packed   len     id       flags     struct pvirtq_desc (2.8.13)

The driver may change a descriptor at any time. So a kernel reads each word once, and takes the
fields out of what it has read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovs_vhost_plugin.jit.atomics import (
    address_of,
    load_acquire,
    load_relaxed,
    store_relaxed,
    store_release,
)
from ovs_vhost_plugin.jit.kernel import kernel
from ovs_vhost_plugin.jit.layout import U64_T, boolean, int64, uint64, void

DESCRIPTOR_BYTES = 16
F_NEXT, F_WRITE, F_INDIRECT = 1, 2, 4
"""The chain goes on; the device writes the buffer; the buffer has descriptors (2.7.5, 2.8.7)."""
F_AVAIL, F_USED = 1 << 7, 1 << 15
"""Packed: compared with the wrap counters, they say whose the descriptor is (2.8.1)."""

_LEN, _LE16 = np.uint64(0xFFFFFFFF), np.uint64(0xFFFF)
_MIDDLE, _TOP = np.uint64(32), np.uint64(48)
_SPLIT_FLAGS = 32
_PACKED_ID, _PACKED_FLAGS = 32, 48
_SIGN = 1 << 16  # flags are the word's highest 16 bits, and F_USED its sign


@kernel(uint64(U64_T, int64), inline=True)
def address_at(table: NDArray[np.uint64], index: int) -> Any:
    """The guest address in descriptor `index`."""
    return load_relaxed(table, 2 * index)


@kernel(void(U64_T, int64, int64), inline=True)
def put_address(table: NDArray[np.uint64], index: int, address: int) -> None:
    """Write the guest address of descriptor `index`."""
    store_relaxed(table, 2 * index, address)


@kernel(uint64(U64_T, int64), inline=True)
def word_at(table: NDArray[np.uint64], index: int) -> Any:
    """The second word of descriptor `index`."""
    return load_relaxed(table, 2 * index + 1)


@kernel(uint64(U64_T, int64), inline=True)
def acquire_word(table: NDArray[np.uint64], index: int) -> Any:
    """The second word of descriptor `index`; no later read comes before it."""
    return load_acquire(table, 2 * index + 1)


@kernel(void(U64_T, int64, int64), inline=True)
def put_word(table: NDArray[np.uint64], index: int, word: int) -> None:
    """Write the second word of descriptor `index`."""
    store_relaxed(table, 2 * index + 1, word)


@kernel(void(U64_T, int64, int64), inline=True)
def release_word(table: NDArray[np.uint64], index: int, word: int) -> None:
    """Write the second word; a reader that sees it sees all earlier writes."""
    store_release(table, 2 * index + 1, word)


@kernel(int64(U64_T, int64), inline=True)
def place_of(table: NDArray[np.uint64], index: int) -> int:
    """The address of descriptor `index` in this process, for a prefetch: it need not exist."""
    return address_of(table, 2 * index)


@kernel(int64(uint64), inline=True)
def length_of(word: Any) -> int:
    """Bytes of the buffer."""
    return int64(word & _LEN)


@kernel(int64(uint64), inline=True)
def split_flags(word: Any) -> int:
    """F_NEXT, F_WRITE, F_INDIRECT and any other bits that the driver set."""
    return int64(word >> _MIDDLE & _LE16)


@kernel(int64(uint64), inline=True)
def split_next(word: Any) -> int:
    """The index of the next descriptor, if F_NEXT is set."""
    return int64(word >> _TOP)


@kernel(int64(uint64), inline=True)
def packed_id(word: Any) -> int:
    """The buffer id. A chain's id is in its last descriptor (2.8.6)."""
    return int64(word >> _MIDDLE & _LE16)


@kernel(int64(uint64), inline=True)
def packed_flags(word: Any) -> int:
    """The flags of `split_flags`, and F_AVAIL and F_USED."""
    return int64(word >> _TOP)


@kernel(int64(int64, int64), inline=True)
def split_word(length: int, writes: int) -> int:
    """The second word of a descriptor alone in its chain; with `writes` the device writes it."""
    return length | (F_WRITE if writes else 0) << _SPLIT_FLAGS


@kernel(int64(int64, int64, int64, int64), inline=True)
def _packed_word(buffer_id: int, length: int, whose: int, writes: int) -> int:
    """The second word of a packed descriptor; `whose` is its F_AVAIL and F_USED, with a sign."""
    flags = whose | (F_WRITE if writes else 0)
    return length | buffer_id << _PACKED_ID | flags << _PACKED_FLAGS


@kernel(int64(int64, int64, boolean, int64), inline=True)
def packed_avail_word(buffer_id: int, length: int, wrap: bool, writes: int) -> int:
    """The second word of an available descriptor, alone in its chain.

    F_AVAIL is the wrap counter, F_USED its opposite (2.8.1).
    """
    return _packed_word(buffer_id, length, F_AVAIL if wrap else F_USED - _SIGN, writes)


@kernel(int64(int64, int64, boolean, int64), inline=True)
def packed_used_word(buffer_id: int, written: int, wrap: bool, writes: int) -> int:
    """The second word of a used descriptor, `written` bytes in its buffers.

    F_AVAIL and F_USED are both the wrap counter (2.8.1). With `writes`, F_WRITE is set, so that
    `written` counts (2.8.13).
    """
    return _packed_word(buffer_id, written, (F_AVAIL | F_USED) - _SIGN if wrap else 0, writes)
