# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.lab.measure.flow import RECORD_SIZE, FlowArrivals, number_of, record

SIZES = st.integers(min_value=20, max_value=1472)


@given(flow=st.integers(0, 9), number=st.integers(0, 10**8 - 1), size=SIZES)
def test_a_record_has_its_size_and_tells_its_number(flow, number, size):
    data = record(flow, number, size)
    assert len(data) == size
    assert number_of(flow, data, size) == number


@given(number=st.integers(0, 10**8 - 1), at=st.integers(0, RECORD_SIZE - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(number, at, bit):
    data = bytearray(record(1, number))
    data[at] ^= 1 << bit
    assert number_of(1, bytes(data)) is None


def test_a_record_of_another_flow_or_another_length_is_refused():
    assert number_of(2, record(1, 5)) is None
    assert number_of(1, record(1, 5) + b"\n") is None
    assert number_of(1, record(1, 5)[:-1]) is None
    assert number_of(1, b"") is None


def test_arrivals_tell_lost_damaged_and_duplicated():
    good = [record(1, number) for number in (0, 1, 3, 3, 4)]
    arrivals = FlowArrivals.parse(1, b"".join([*good[:2], b"?" * RECORD_SIZE, *good[2:]]))
    assert arrivals.numbers == [0, 1, 3, 3, 4]
    assert arrivals.damaged == 1
    assert arrivals.lost(6) == [2, 5]
    assert arrivals.duplicates() == [3]


@pytest.mark.parametrize("cut", [1, RECORD_SIZE - 1])
def test_a_record_cut_short_at_the_end_is_damaged_not_lost_sight_of(cut):
    arrivals = FlowArrivals.parse(1, (record(1, 0) + record(1, 1))[:-cut])
    assert (arrivals.numbers, arrivals.damaged) == ([0], 1)
