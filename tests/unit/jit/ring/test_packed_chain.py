# SPDX-License-Identifier: Apache-2.0
"""Chains of a packed ring: what they are made of, and each fault by name."""

from __future__ import annotations

import pytest
from support.jit.packed_bench import BUFFER, BUFFERS, LOW, Bench
from support.jit.packed_reference import AVAIL, USED, packed_descriptor
from support.jit.ring_reference import INDIRECT, NEXT, WRITE

from ovs_vhost_plugin.jit import layout
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.result import failure
from ovs_vhost_plugin.jit.ring.packed import enable_notification

TABLE = LOW + 0xC000


def raw(bench: Bench, *entries: tuple[int, int, int, int], at: int = 0) -> None:
    """Write descriptors (address, length, id, flags beside the wrap counter's) from `at` on."""
    for position, (address, length, buffer_id, flags) in enumerate(entries, at):
        flags |= bench.driver.available(position)
        bench.driver.put_descriptor(position, address, length, buffer_id, flags)


FAULTS = {
    Fault.ID_OUT_OF_RANGE: [(*BUFFER, 8, 0)],
    Fault.NEXT_NOT_AVAILABLE: [(*BUFFER, 0, NEXT)],
    Fault.WRONG_DIRECTION: [(*BUFFER, 0, WRITE)],
    Fault.ZERO_LENGTH: [(BUFFERS, 0, 0, 0)],
    Fault.ADDRESS_WRAPS: [(2**64 - 8, 9, 0, 0)],
    Fault.ADDRESS_OUTSIDE_MEMORY: [(LOW + 0x1FFFF, 2, 0, 0)],
    Fault.INDIRECT_WITH_NEXT: [(TABLE, 16, 0, INDIRECT | NEXT)],
    Fault.INDIRECT_EMPTY: [(TABLE, 0, 0, INDIRECT)],
    Fault.INDIRECT_LENGTH: [(TABLE, 24, 0, INDIRECT)],
    Fault.INDIRECT_TOO_LARGE: [(LOW, 16 * layout.CHAINS + 16, 0, INDIRECT)],
    Fault.INDIRECT_OUTSIDE_MEMORY: [(LOW + 0x1FFF8, 16, 0, INDIRECT)],
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.kebab)
def test_names_the_fault_and_keeps_what_was_good(fault: Fault) -> None:
    bench = Bench(indirect=1)
    raw(bench, (*BUFFER, 5, 0), *FAULTS[fault])
    assert bench.pop_avail() == failure(fault)
    assert bench.held == [5]


def test_a_chain_ends_where_descriptors_are_held() -> None:
    """The driver has made one that the device holds available again: the chain would not end."""
    bench = Bench()
    raw(bench, (*BUFFER, 0, 0))
    assert bench.pop_avail() == 0
    raw(bench, *[(*BUFFER, 1, NEXT)] * 8, at=1)
    assert bench.pop_avail() == failure(Fault.CHAIN_LOOPS)


def test_a_table_behind_other_descriptors_is_refused() -> None:
    bench = Bench(indirect=1)
    raw(bench, (*BUFFER, 0, NEXT), (TABLE, 16, 0, INDIRECT))
    assert bench.pop_avail() == failure(Fault.INDIRECT_WITH_NEXT)


def test_a_readable_buffer_in_a_table_of_a_receive_ring_is_refused() -> None:
    bench = Bench(indirect=1, writes=1)
    bench.driver.memory.write(TABLE, packed_descriptor(*BUFFER))
    raw(bench, (TABLE, 16, 0, INDIRECT))
    assert bench.pop_avail() == failure(Fault.WRONG_DIRECTION)


def test_a_table_that_was_not_negotiated_is_refused() -> None:
    bench = Bench()
    raw(bench, (TABLE, 16, 0, INDIRECT))
    assert bench.pop_avail() == failure(Fault.INDIRECT_NOT_NEGOTIATED)


def test_readable_after_writable() -> None:
    bench = Bench(writes=1)
    raw(bench, (*BUFFER, 0, WRITE | NEXT), (*BUFFER, 0, 0))
    assert bench.pop_avail() == failure(Fault.READABLE_AFTER_WRITABLE)


def test_a_chain_of_more_iovecs_than_readv_takes() -> None:
    bench = Bench(1030)
    bench.driver.offer(
        bench.driver.chain(0, [(LOW + 0x10000, 1)] * (layout.HELD_IOVECS_MAX + 1), write=False)
    )
    assert bench.pop_avail() == failure(Fault.CHAIN_TOO_LONG)


@pytest.mark.parametrize("position", [0, 5, 8, 13])
def test_flags_that_no_driver_writes_are_a_wrong_wrap_counter(position: int) -> None:
    bench = Bench(first=position)
    flags = AVAIL | USED if position < 8 else 0
    bench.driver.put_descriptor(position, *BUFFER, 0, flags)
    assert enable_notification(bench.ring, bench.memory, bench.net)
    assert bench.pop_avail() == failure(Fault.WRAP_COUNTER_WRONG)


def test_all_of_an_indirect_table_is_the_chain_whatever_its_flags_say() -> None:
    """2.8.7: of the flags only WRITE counts, and the table's descriptors have no next.

    Nor does it where nothing is written: DPDK's driver says it of the header that it sends.
    """
    bench = Bench(indirect=1)
    flags = (WRITE, NEXT, INDIRECT, 9)
    entries = [(BUFFERS + 100 * i, 10 + i, bits) for i, bits in enumerate(flags)]
    table = b"".join(packed_descriptor(address, n, flags, 77) for address, n, flags in entries)
    bench.driver.memory.write(TABLE, table)
    raw(bench, (TABLE, len(table), 3, INDIRECT | WRITE))
    assert bench.pop_avail() == 0
    assert bench.held == [3]
    pieces = bench.queue.iov[1:5]
    host = bench.driver.memory.host
    assert [(p["base"], p["len"]) for p in pieces] == [(host(a), n) for a, n, _ in entries]
