# SPDX-License-Identifier: Apache-2.0
"""The base of a packed ring, bit by bit."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.packed_base import BEGINNINGS, decode, encode


def test_the_bits_are_the_specifications():
    assert encode(0, 256) == 0x8000_8000
    assert encode(255, 256) == 0x80FF_80FF
    assert encode(256, 256) == 0
    assert encode(256 + 7, 256) == 0x0007_0007


def test_a_ring_begins_with_its_wrap_counter_at_1_whether_both_halves_say_so_or_one():
    assert [decode(base, 100) for base in BEGINNINGS] == [0, 0]


@settings(deadline=None)
@given(st.integers(1, 32768), st.data())
def test_what_was_answered_is_understood(size, data):
    position = data.draw(st.integers(0, 2 * size - 1))
    assert decode(encode(position, size), size) == position
    assert decode(encode(position, size) & 0xFFFF, size) == position  # as DPDK says it


@pytest.mark.parametrize(
    ("base", "position"), [(0x8002_8003, 2), (0x0003_8003, 11), (0x8007_0001, 7)], ids=hex
)
def test_what_is_between_the_halves_was_lost_with_a_back_end_and_is_done_again(base, position):
    assert decode(base, 8) == position


@pytest.mark.parametrize(
    ("base", "name"),
    [
        (0x8008, PeerErrorName.VRING_BASE_RANGE),
        (0x7FFF, PeerErrorName.VRING_BASE_RANGE),
        (0x8008_8003, PeerErrorName.VRING_BASE_RANGE),
        (0x8004_8003, PeerErrorName.VRING_BASE_RANGE),  # used ahead of what is available
        (0x0001_0000, PeerErrorName.VRING_BASE_RANGE),
    ],
)
def test_bases_that_no_ring_has(base, name):
    with pytest.raises(PeerError) as caught:
        decode(base, 8)
    assert caught.value.name == name


@pytest.mark.parametrize(
    ("base", "detail"),
    [(0x8004_8003, "avail 0x8003, used 0x8004 of 8"), (0x8008, "descriptor 8 of 8")],
)
def test_a_base_that_no_ring_has_is_shown(base, detail):
    with pytest.raises(PeerError) as caught:
        decode(base, 8)
    assert caught.value.detail == detail
