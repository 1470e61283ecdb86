# SPDX-License-Identifier: Apache-2.0
"""Packed rings: what is available, what goes back and when it shows, events, and what is logged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.jit.examples import examples
from support.jit.packed_bench import BUFFER, LOW, Bench
from support.jit.packed_reference import AVAIL, USED
from support.jit.ring_reference import WRITE

from ovs_vhost_plugin.jit.recovery.resume import stands_at_base
from ovs_vhost_plugin.jit.ring.packed import (
    disable_notification,
    enable_notification,
    needs_notification,
)


@settings(deadline=None)
@given(
    size=st.integers(1, 70),
    first=st.integers(0, 139),
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=60),
    batches=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=20),
    in_order=st.booleans(),
    writes=st.booleans(),
)
def test_chains_of_any_length_go_around_the_ring_and_back(
    size: int,
    first: int,
    lengths: list[int],
    batches: list[tuple[int, int]],
    in_order: bool,
    writes: bool,
) -> None:
    """Any number of descriptors, chains that lie across the ring's end, both wrap counters."""
    bench = Bench(size, first % (2 * size), in_order=in_order, writes=writes)
    driver = bench.driver
    free, offered, back = size, [], []
    chain_lengths: dict[int, int] = {}
    for offers, finish in batches:
        for _ in range(offers):
            length = lengths[len(offered) % len(lengths)]
            buffer_id = len(offered) % size
            if length > free or buffer_id in chain_lengths:
                break
            driver.offer(driver.chain(buffer_id, [BUFFER] * length, write=writes))
            chain_lengths[buffer_id] = length
            free -= length
            offered.append(buffer_id)
        assert bench.pop_avail() == 0
        assert bench.held == offered[len(back) :]
        done = min(finish, len(bench.held))
        bench.add_used(done, 7 if writes else 0)
        assert bench.flush_used() == (done > 0)
        returned = driver.collect()
        assert returned == [(i, 7 if writes else 0) for i in offered[len(back) : len(back) + done]]
        back += [i for i, _ in returned]
        free += sum(chain_lengths.pop(i) for i, _ in returned)
    state = bench.ring.state[0]
    assert driver.seen == state["next_avail"] == state["next_used"]


def test_nothing_shows_before_the_first_used_descriptor() -> None:
    bench = Bench(writes=1)
    for i in range(3):
        bench.driver.offer(bench.driver.chain(i, [BUFFER], write=True))
    bench.pop_avail()
    bench.add_used(3, 5)
    assert bench.driver.collect() == []
    bench.flush_used()
    assert bench.driver.collect() == [(0, 5), (1, 5), (2, 5)]
    assert [bench.driver.descriptor(i)[3] for i in range(3)] == [AVAIL | USED | WRITE] * 3


def test_in_order_a_burst_is_one_used_descriptor() -> None:
    bench = Bench(in_order=1, first=6)
    for i in range(4):
        bench.driver.offer(bench.driver.chain(i, [BUFFER] * 2, write=False))
    bench.pop_avail()
    bench.add_used(4)
    before = [bench.driver.descriptor(position) for position in range(6, 14)]
    bench.flush_used()
    after = [bench.driver.descriptor(position) for position in range(6, 14)]
    assert after[0][2:] == (3, AVAIL | USED)
    assert after[1:] == before[1:]
    assert bench.driver.collect() == [(0, 0), (1, 0), (2, 0), (3, 0)]


def test_a_full_ring_is_not_read_beyond_what_is_held() -> None:
    """A driver that makes descriptors available which the device holds gains nothing by it."""
    bench = Bench(4)
    for i in range(4):
        bench.driver.offer(bench.driver.chain(i, [BUFFER], write=False))
    bench.pop_avail()
    bench.driver.put_descriptor(4, *BUFFER, 0, USED)
    assert bench.pop_avail() == 0
    assert bench.held == [0, 1, 2, 3]
    assert not enable_notification(bench.ring, bench.memory, bench.net)


@settings(deadline=None)
@given(
    size=st.integers(1, 9),
    first=st.integers(0, 17),
    event=st.integers(0, 17),
    bursts=st.lists(st.integers(1, 9), min_size=1, max_size=8),
)
def test_calls_with_a_descriptor_event(
    size: int, first: int, event: int, bursts: list[int]
) -> None:
    """2.8.10: the first time always, later when the event's descriptor was used."""
    first, event = first % (2 * size), event % (2 * size)
    bench = Bench(size, first, event_idx=1)
    bench.driver.set_event(event)
    done = 0
    for number, burst in enumerate(min(burst, size) for burst in bursts):
        for i in range(burst):
            bench.driver.offer(bench.driver.chain(i, [BUFFER], write=False))
        bench.pop_avail()
        bench.add_used(burst)
        assert bench.flush_used()
        bench.driver.collect()
        used = {(first + done + i) % (2 * size) for i in range(burst)}
        assert needs_notification(bench.ring) == (number == 0 or event in used)
        done += burst


def test_calls_by_flag_alone() -> None:
    bench = Bench(event_idx=0)
    wanted = []
    for flags in (0, 1, 2, 3):  # DESC means nothing where it was not negotiated
        bench.driver.set_no_interrupt(flags)
        wanted.append(needs_notification(bench.ring))
    assert wanted == [True, False, True, True]


@pytest.mark.parametrize("event_idx", [0, 1])
@pytest.mark.parametrize("first", [0, 7, 8, 15])
def test_kicks_are_asked_for_and_refused(event_idx: int, first: int) -> None:
    bench = Bench(8, first, event_idx=event_idx)
    group = (bench.ring, bench.memory, bench.net)
    assert not enable_notification(*group)
    event = first % 8 | (0x8000 if first < 8 else 0)
    assert bench.driver.event == (event, 2 if event_idx else 0)
    bench.driver.offer(bench.driver.chain(0, [BUFFER], write=False))
    assert enable_notification(*group)
    bench.pop_avail()
    disable_notification(*group)
    assert bench.driver.event[1] == 1
    assert not enable_notification(*group)
    assert bench.driver.event[1] == (2 if event_idx else 0)


@settings(deadline=None, max_examples=examples(60))
@given(
    size=st.integers(1, 20),
    first=st.integers(0, 39),
    steps=st.lists(st.integers(1, 5), max_size=8),
    waiting=st.integers(0, 20),
)
def test_a_true_base_is_never_taken_for_a_stale_one(
    size: int, first: int, steps: list[int], waiting: int
) -> None:
    bench = Bench(size, first % (2 * size))
    for step in steps:
        for i in range(min(step, size)):
            bench.driver.offer(bench.driver.chain(i, [BUFFER], write=False))
        bench.pop_avail()
        bench.add_used(len(bench.held))
        bench.flush_used()
        bench.driver.collect()
    for i in range(min(waiting, size)):
        bench.driver.offer(bench.driver.chain(i, [BUFFER], write=False))
    assert stands_at_base(bench.ring)


@pytest.mark.parametrize("first", [0, 5, 8, 12])
def test_a_ring_that_has_gone_on_is_told_from_its_base(first: int) -> None:
    bench = Bench(8, first)
    assert stands_at_base(bench.ring)
    bench.driver.offer(bench.driver.chain(0, [BUFFER] * 3, write=False))
    assert stands_at_base(bench.ring)
    bench.pop_avail()
    bench.add_used()
    bench.flush_used()
    assert stands_at_base(bench.ring)
    for name in ("next_avail", "next_pop", "next_used"):
        bench.ring.state[name] = first
    assert not stands_at_base(bench.ring)


@pytest.mark.parametrize("in_order", [0, 1])
@pytest.mark.parametrize("writes", [0, 1])
@pytest.mark.parametrize("log_used", [0, 1])
def test_exactly_what_was_written_of_the_ring_is_logged(
    in_order: int, writes: int, log_used: int
) -> None:
    """The descriptors and the event area, each at its own guest address; the ring has 3 pages."""
    size = 700
    log_event = 0x7010
    bench = Bench(
        size, first=2 * size - 100, log_bytes=4, base=LOW + 0x100, event_idx=1, writes=writes,
        in_order=in_order, log_used=log_used, log_guest=log_event, log_desc=LOW + 0x100,
    )  # fmt: skip
    driver, log = bench.driver, bench.memory.log
    for burst in (1, 90, 300, 64):
        for i in range(burst):
            driver.offer(driver.chain(i, [BUFFER], write=bool(writes)))
        bench.pop_avail(1000)
        before = driver.memory.read(driver.desc, 16 * size)
        log[:] = 0
        bench.add_used(burst, 3)
        bench.flush_used()
        after = driver.memory.read(driver.desc, 16 * size)
        changed = {(driver.desc + i) // 4096 for i in range(len(after)) if before[i] != after[i]}
        logged = set(np.flatnonzero(np.unpackbits(log, bitorder="little")))
        assert logged == (changed if log_used else set())
        driver.collect()
        log[:] = 0
        enable_notification(bench.ring, bench.memory, bench.net)
        disable_notification(bench.ring, bench.memory, bench.net)
        logged = set(np.flatnonzero(np.unpackbits(log, bitorder="little")))
        assert logged == ({log_event // 4096} if log_used else set())
    assert bench.net.faults.sum() == 0
