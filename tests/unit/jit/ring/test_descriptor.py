# SPDX-License-Identifier: Apache-2.0
"""The accessors find the fields where the specification's structs have them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.jit.ring import descriptor

# virtio 1.2, 2.7.5 and 2.8.13
SPLIT = np.dtype([("addr", "<u8"), ("len", "<u4"), ("flags", "<u2"), ("next", "<u2")])
PACKED = np.dtype([("addr", "<u8"), ("len", "<u4"), ("id", "<u2"), ("flags", "<u2")])
U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))


@given(address=U64, length=U32, middle=U16, top=U16)
def test_each_field_of_both_layouts(address: int, length: int, middle: int, top: int) -> None:
    for layout in (SPLIT, PACKED):
        table = np.zeros(3, layout)
        table[1] = (address, length, middle, top)
        words = table.view(np.uint64)
        assert descriptor.address_at(words, 1) == address
        word = np.uint64(descriptor.word_at(words, 1))
        assert word == descriptor.acquire_word(words, 1)
        assert descriptor.length_of(word) == length
        fields = (descriptor.split_flags, descriptor.split_next)
        if layout is PACKED:
            fields = (descriptor.packed_id, descriptor.packed_flags)
        assert [field(word) for field in fields] == [middle, top]


@given(address=st.integers(0, 2**63 - 1))
def test_a_driver_writes_an_address(address: int) -> None:
    """A kernel's own integers are signed."""
    for layout in (SPLIT, PACKED):
        table = np.zeros(2, layout)
        descriptor.put_address(table.view(np.uint64), 0, address)
        assert table.tolist() == [(address, 0, 0, 0), (0, 0, 0, 0)]


@given(buffer_id=U16, written=U32, wrap=st.booleans(), writes=st.integers(0, 1))
def test_a_used_descriptor(buffer_id: int, written: int, wrap: bool, writes: int) -> None:
    """2.8.1 and 2.8.13: both flags are the wrap counter, WRITE says that len counts."""
    table = np.zeros(2, PACKED)
    word = descriptor.packed_used_word(buffer_id, written, wrap, writes)
    flags = (1 << 7 | 1 << 15 if wrap else 0) | 2 * writes
    for put in (descriptor.put_word, descriptor.release_word):
        table[:] = 0
        put(table.view(np.uint64), 1, word)
        assert table[1].tolist() == (0, written, buffer_id, flags)
        assert not table[:1].view(np.uint64).any()


@given(buffer_id=U16, length=U32, wrap=st.booleans(), writes=st.integers(0, 1))
def test_a_descriptor_alone_in_its_chain(
    buffer_id: int, length: int, wrap: bool, writes: int
) -> None:
    """2.8.1: F_AVAIL is the wrap counter and F_USED its opposite. 2.7.5: `next` is not used."""
    flags = (1 << 7 if wrap else 1 << 15) | 2 * writes
    table = np.zeros(1, PACKED)
    word = descriptor.packed_avail_word(buffer_id, length, wrap, writes)
    descriptor.put_word(table.view(np.uint64), 0, word)
    assert table[0].tolist() == (0, length, buffer_id, flags)
    table = np.zeros(1, SPLIT)
    descriptor.put_word(table.view(np.uint64), 0, descriptor.split_word(length, writes))
    assert table[0].tolist() == (0, length, 2 * writes, 0)
