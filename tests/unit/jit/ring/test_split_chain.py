# SPDX-License-Identifier: Apache-2.0
"""Chains: the kernel against the plain walker, and each fault by name."""

from __future__ import annotations

import multiprocessing
from errno import EFAULT
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.jit.examples import examples
from support.jit.kernel_views import kernel_memory, kernel_ring
from support.jit.ring_reference import (
    INDIRECT,
    NEXT,
    WRITE,
    Driver,
    GuestMemory,
    descriptor,
    reference_walk,
)

from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.result import failure, fault_of
from ovs_vhost_plugin.jit.ring.buffers import find_region
from ovs_vhost_plugin.jit.ring.held import gather, hold, make_room, release, scatter
from ovs_vhost_plugin.jit.ring.split_chain import walk

LOW, MIDDLE, HIGH = 0x10000, 0x20000, 0xFFFF_FFFF_FFFF_0000
TABLE_MAX = layout.CHAINS


def look_up_all() -> None:
    regions = np.array([(16 * i, 9, 0) for i in range(5)], layout.REGION_DTYPE)
    for address in range(16 * 5 + 1):
        find_region(regions, 0, 0, np.uint64(address))


@pytest.fixture(scope="module", autouse=True)
def _a_region_is_looked_up_in_time() -> None:
    """In a process that can be ended: no signal gets through to compiled code that loops."""
    process = multiprocessing.get_context("fork").Process(target=look_up_all, daemon=True)
    process.start()
    process.join(30)
    if process.is_alive():
        process.kill()
        pytest.fail("find_region does not end")
    assert process.exitcode == 0


def new_driver(size: int = 8) -> Driver:
    """Two regions that are neighbours for the guest, and one that ends where addresses do."""
    memory = GuestMemory((LOW, 0x10000), (MIDDLE, 0x4000), (HIGH, 0x10000))
    return Driver(memory, size, LOW)


def kernel_walk(driver: Driver, head: int, write: bool, indirect: bool) -> Any:
    queue = fresh.new_queue()
    ring = kernel_ring(driver, writes=write, indirect=indirect)
    pieces, *_ = walk(ring, head, kernel_memory(driver.memory).regions, queue)
    if pieces < 0:
        return Fault(fault_of(pieces)).name
    return [(int(p["base"]), int(p["len"])) for p in queue.iov[1 : 1 + pieces]]


ADDRESSES = st.one_of(
    st.integers(LOW, LOW + 0xFFFF),
    st.integers(MIDDLE - 32, MIDDLE + 32),
    st.integers(MIDDLE + 0x3FE0, MIDDLE + 0x4020),
    st.integers(2**64 - 64, 2**64 - 1),
    st.integers(0, 2**64 - 1),
)
LENGTHS = st.one_of(st.integers(1, 64), st.sampled_from([0, 16, 32, 4096, 0x10000, 2**32 - 1]))
DESCRIPTORS = st.tuples(
    ADDRESSES, LENGTHS, st.sampled_from([0, 0, NEXT, NEXT, WRITE, WRITE | NEXT, 4, 5, 6, 8]),
    st.one_of(st.integers(0, 9), st.integers(0, 65535)),
)  # fmt: skip


@settings(max_examples=examples(400), deadline=None)
@given(
    table=st.lists(DESCRIPTORS, min_size=8, max_size=8),
    nested=st.lists(DESCRIPTORS, max_size=6),
    head=st.integers(0, 9),
    write=st.booleans(),
    indirect=st.booleans(),
)
def test_walks_like_the_reference(
    table: list[Any], nested: list[Any], head: int, write: bool, indirect: bool
) -> None:
    driver = new_driver()
    at = MIDDLE - 24  # the indirect table lies across two regions
    driver.memory.write(at, b"".join(descriptor(*entry) for entry in nested))
    for index, (address, length, flags, after) in enumerate(table):
        if flags & INDIRECT and address % 2:
            address, length = at, 16 * len(nested)
        driver.describe(index, address, length, flags, after)
    expected = reference_walk(
        driver, head, write=write, indirect=indirect,
        pieces_max=layout.HELD_IOVECS_MAX, table_max=TABLE_MAX,
    )  # fmt: skip
    assert kernel_walk(driver, head, write, indirect) == expected


@settings(max_examples=examples(200), deadline=None)
@given(
    buffers=st.lists(
        st.tuples(st.integers(MIDDLE - 64, MIDDLE + 64), st.integers(1, 200)),
        max_size=8,
        min_size=1,
    ),
    cut=st.integers(0, 8),
    write=st.booleans(),
)
def test_every_layout_of_a_good_chain(
    buffers: list[tuple[int, int]], cut: int, write: bool
) -> None:
    """Any split of the buffers into direct descriptors and an indirect table behind them."""
    driver = new_driver(16)
    direct, rest = buffers[:cut], buffers[cut:]
    flags = WRITE if write else 0
    for i, (address, length) in enumerate(direct):
        more = NEXT if rest or i < len(direct) - 1 else 0
        driver.describe(3 + i, address, length, flags | more, 4 + i)
    if rest:
        last = len(rest) - 1
        entries = [
            descriptor(address, length, flags | (NEXT if i < last else 0), i + 1)
            for i, (address, length) in enumerate(rest)
        ]
        driver.memory.write(LOW + 0x8000, b"".join(entries))
        driver.describe(3 + len(direct), LOW + 0x8000, 16 * len(rest), INDIRECT | flags)
    found = kernel_walk(driver, 3, write, True)
    expected = [piece for buffer in buffers for piece in driver.memory.pieces(*buffer)]
    assert found == [(driver.memory.host(address), part) for address, part in expected]


GOOD = (LOW + 0x8000, 64)
CASES: dict[Fault, tuple[list[tuple[int, int, int, int]], bool]] = {
    Fault.NEXT_OUT_OF_RANGE: ([(*GOOD, NEXT, 8)], False),
    Fault.CHAIN_LOOPS: ([(*GOOD, NEXT, 1), (*GOOD, NEXT, 0)], False),
    Fault.WRONG_DIRECTION: ([(*GOOD, WRITE, 0)], False),
    Fault.READABLE_AFTER_WRITABLE: ([(*GOOD, WRITE | NEXT, 1), (*GOOD, 0, 0)], True),
    Fault.ZERO_LENGTH: ([(2**64 - 1, 0, 0, 0)], False),
    Fault.ADDRESS_WRAPS: ([(2**64 - 8, 9, 0, 0)], False),
    Fault.ADDRESS_OUTSIDE_MEMORY: ([(MIDDLE + 0x3FFF, 2, 0, 0)], False),
    Fault.INDIRECT_NESTED: ([(LOW + 0x9000, 16, INDIRECT, 0)], False),
    Fault.INDIRECT_WITH_NEXT: ([(LOW + 0x9000, 16, INDIRECT | NEXT, 1)], False),
    Fault.INDIRECT_EMPTY: ([(LOW + 0x9000, 0, INDIRECT, 0)], False),
    Fault.INDIRECT_LENGTH: ([(LOW + 0x9000, 24, INDIRECT, 0)], False),
    Fault.INDIRECT_TOO_LARGE: ([(LOW, 16 * TABLE_MAX + 16, INDIRECT, 0)], False),
    Fault.INDIRECT_OUTSIDE_MEMORY: ([(MIDDLE + 0x3FF8, 16, INDIRECT, 0)], False),
}


@pytest.mark.parametrize("fault", CASES, ids=lambda fault: fault.kebab)
def test_names_the_fault(fault: Fault) -> None:
    driver = new_driver()
    driver.memory.write(LOW + 0x9000, descriptor(LOW + 0x9000, 16, INDIRECT))
    entries, write = CASES[fault]
    for index, entry in enumerate(entries):
        driver.describe(index, *entry)
    assert kernel_walk(driver, 0, write, True) == fault.name


def test_names_a_head_out_of_range() -> None:
    assert kernel_walk(new_driver(), 8, False, True) == Fault.HEAD_OUT_OF_RANGE.name


def test_names_an_indirect_table_that_was_not_negotiated() -> None:
    driver = new_driver()
    driver.describe(0, *GOOD, INDIRECT)
    assert kernel_walk(driver, 0, False, False) == Fault.INDIRECT_NOT_NEGOTIATED.name


def test_names_a_chain_of_more_iovecs_than_readv_takes() -> None:
    driver = Driver(GuestMemory((LOW, 0x20000)), 2048, LOW)
    driver.chain(0, [(LOW + 0x18000, 1)] * (layout.HELD_IOVECS_MAX + 1), write=False)
    assert kernel_walk(driver, 0, False, False) == Fault.CHAIN_TOO_LONG.name
    assert len(kernel_walk(driver, 1, False, False)) == layout.HELD_IOVECS_MAX


def test_a_failed_walk_holds_nothing_and_touches_no_held_chain() -> None:
    driver = new_driver()
    queue = fresh.new_queue()
    ring = kernel_ring(driver)
    regions = kernel_memory(driver.memory).regions
    hold(queue, *walk(ring, driver.chain(0, [GOOD], write=False), regions, queue))
    before = (queue.state.copy(), queue.iov[1].copy())
    driver.chain(2, [GOOD, (LOW + 0x8100, 0)], write=False)
    assert walk(ring, 2, regions, queue)[0] == failure(Fault.ZERO_LENGTH)
    assert (queue.state, queue.iov[1]) == before


def test_held_chains_survive_being_moved_to_the_front() -> None:
    """Many more iovecs than there is room for pass through, a few always held."""
    driver = new_driver(64)
    regions = kernel_memory(driver.memory).regions
    queue = fresh.new_queue()
    ring = kernel_ring(driver)
    buffers = [(LOW + 0x8000 + 16 * i, 16) for i in range(40)]
    driver.chain(0, buffers, write=False)
    expected = [(driver.memory.host(address), 16) for address, _ in buffers]
    for _ in range(3 * layout.IOVEC_ROOM // 40):
        make_room(queue)
        hold(queue, *walk(ring, 0, regions, queue))
        state = queue.state[0]
        assert state["end"] < layout.IOVEC_ROOM
        if state["count"] == 3:
            first = state["first"]
            oldest = queue.iov[first : first + 40]
            assert [(p["base"], p["len"]) for p in oldest] == expected
            assert list(queue.guest[first : first + 40]) == [address for address, _ in buffers]
            release(queue)
    assert (queue.state[0]["count"], queue.state[0]["length"]) == (2, 2 * 40 * 16)


@settings(max_examples=examples(100), deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8), data=st.data())
def test_scatter_and_gather_meet_in_the_middle(lengths: list[int], data: Any) -> None:
    driver = new_driver()
    queue = fresh.new_queue()
    buffers = [(LOW + 0x8000 + 32 * i, length) for i, length in enumerate(lengths)]
    driver.chain(0, buffers, write=True)
    ring = kernel_ring(driver, writes=1)
    walk(ring, 0, kernel_memory(driver.memory).regions, queue)
    total = sum(lengths)
    skip = data.draw(st.integers(0, total - 1))
    content = np.arange(1, total - skip + 1, dtype=np.uint8)
    scatter(queue, 1, skip, content, 0, len(content))
    flat = b"".join(driver.memory.read(*buffer) for buffer in buffers)
    assert flat == bytes(skip) + content.tobytes()
    back = np.zeros(total, np.uint8)
    gather(queue, 1, back, 0, total)
    assert back.tobytes() == flat


@settings(max_examples=examples(200), deadline=None)
@given(
    starts=st.sets(st.integers(0, 600), max_size=509),
    long=st.sets(st.integers(0, 600)),
    address=st.one_of(st.integers(0, 602 * 16), st.sampled_from([2**63, 2**64 - 1])),
)
def test_the_region_of_an_address_is_the_one_that_holds_it_among_hundreds(
    starts: set[int], long: set[int], address: int
) -> None:
    rows = [(16 * start, 16 if start in long else 9, 0) for start in sorted(starts)]
    regions = np.array(rows, layout.REGION_DTYPE)
    held = [i for i, (guest, size, _) in enumerate(rows) if guest <= address < guest + size]
    assert find_region(regions, 0, 0, np.uint64(address)) == (held[0] if held else -EFAULT)


def test_the_last_region_may_end_where_addresses_do() -> None:
    regions = np.array([(0, 16, 0), (2**64 - 16, 16, 0)], layout.REGION_DTYPE)
    for address, index in (
        (15, 0),
        (16, -EFAULT),
        (2**64 - 17, -EFAULT),
        (2**64 - 16, 1),
        (2**64 - 1, 1),
    ):
        assert find_region(regions, 0, 0, np.uint64(address)) == index
