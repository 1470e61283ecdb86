# SPDX-License-Identifier: Apache-2.0
"""Positions of a packed ring, as slot and wrap counter."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.result import failure
from ovs_vhost_plugin.jit.ring import position

SIZES = (1, 2, 5, 8)


@pytest.mark.parametrize("size", SIZES)
def test_a_position_is_a_slot_and_a_wrap_counter(size: int) -> None:
    """2.8.1: the counter begins as 1 and is toggled where the ring begins anew."""
    turns = [(wrap, slot) for wrap in (True, False) for slot in range(size)]
    for at, (wrap, slot) in enumerate(turns):
        assert position.slot_of(size, at) == slot
        assert position.wrap_of(size, at) == wrap
        event = position.off_wrap(size, at)
        assert (event & 0x7FFF, event >> 15) == (slot, wrap)
        assert position.position_of_event(size, event) == at


@pytest.mark.parametrize("size", SIZES)
def test_advance_and_distance_are_each_others_inverse(size: int) -> None:
    for start, count in itertools.product(range(2 * size), range(size + 1)):
        end = position.advance(size, start, count)
        assert end == (start + count) % (2 * size)
        assert position.distance(size, start, end) == count


@pytest.mark.parametrize("wrap", [True, False])
def test_who_has_a_descriptor(wrap: bool) -> None:
    at = 1 if wrap else 5
    fault = failure(Fault.WRAP_COUNTER_WRONG)
    expected = {(wrap, not wrap): 1, (wrap, wrap): fault}
    for avail, used in itertools.product((False, True), repeat=2):
        word = np.uint64((avail << 7 | used << 15) << 48)
        assert position.is_available(4, at, word) == expected.get((avail, used), 0)
        assert position.is_used(4, at, word) == ((avail, used) == (wrap, wrap))


@pytest.mark.parametrize("size", SIZES)
def test_an_event_is_passed_with_the_descriptor_that_it_names(size: int) -> None:
    """2.8.10: also where the ring begins anew, and once for each time around both laps."""
    for old, count in itertools.product(range(2 * size), range(2 * size)):
        passed = [(old + i) % (2 * size) for i in range(count)]
        for event in range(2 * size):
            new = (old + count) % (2 * size)
            assert position.passes(size, event, new, old) == (event in passed)
