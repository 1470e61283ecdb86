# SPDX-License-Identifier: Apache-2.0
"""The dirty log: exactly the pages of a range, never anything elsewhere."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.ring.dirty import mark

PAGES = 64


def new_memory(log_bytes: int = PAGES // 8) -> layout.Memory:
    return layout.Memory(np.zeros(0, layout.REGION_DTYPE), np.zeros(log_bytes, np.uint8))


@settings(deadline=None)
@given(ranges=st.lists(st.tuples(st.integers(0, 80 * 4096), st.integers(0, 5 * 4096)), max_size=9))
def test_marks_exactly_the_pages_written(ranges: list[tuple[int, int]]) -> None:
    memory, net = new_memory(), fresh.new_net()
    pages: set[int] = set()
    beyond = 0
    for address, length in ranges:
        mark(memory, net, address, length)
        touched = range(address // 4096, (address + length - 1) // 4096 + 1) if length else ()
        pages |= {page for page in touched if page < PAGES}
        beyond += any(page >= PAGES for page in touched)
    assert set(np.flatnonzero(np.unpackbits(memory.log, bitorder="little"))) == pages
    assert net.faults[Fault.LOG_TOO_SMALL] == beyond
    assert net.faults.sum() == beyond


def test_the_end_of_the_address_space_is_beyond_the_log() -> None:
    memory, net = new_memory(), fresh.new_net()
    mark(memory, net, 2**64 - 16, 16)
    assert (net.faults[Fault.LOG_TOO_SMALL], memory.log.sum()) == (1, 0)


def test_without_a_log_nothing_is_counted() -> None:
    memory, net = new_memory(0), fresh.new_net()
    mark(memory, net, 4096, 4096)
    assert net.faults.sum() == 0
