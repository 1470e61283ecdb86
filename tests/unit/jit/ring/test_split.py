# SPDX-License-Identifier: Apache-2.0
"""Avail and used rings, who wakes whom, and what of that is logged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.jit.kernel_views import kernel_memory, kernel_ring
from support.jit.ring_reference import WRITE, Driver, GuestMemory

from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.result import failure
from ovs_vhost_plugin.jit.ring.held import IOVECS_FULL
from ovs_vhost_plugin.jit.ring.split import (
    add_used,
    disable_notification,
    enable_notification,
    flush_used,
    need_event,
    needs_notification,
    pop_avail,
    read_avail_idx,
)

LOW = 0x10000
BUFFERS = LOW + 0x8000
U16 = st.integers(0, 65535)


def new_driver(size: int = 8, first: int = 0) -> Driver:
    return Driver(GuestMemory((LOW, 0x10000)), size, LOW, first)


def no_log(driver: Driver) -> layout.Memory:
    return kernel_memory(driver.memory)


@given(event=U16, old=U16, steps=U16)
def test_an_event_is_needed_when_the_index_passes_it(event: int, old: int, steps: int) -> None:
    """2.7.10 in words: one of the entries old, old + 1, ... that were added is the event's."""
    passed = (event - old) % 65536 < steps
    assert need_event(event, (old + steps) % 65536, old) == passed


@pytest.mark.parametrize(
    ("ahead", "result"),
    [
        (0, 0),
        (8, 0),
        (9, failure(Fault.AVAIL_JUMPS)),
        (0x7FFF, failure(Fault.AVAIL_JUMPS)),
        (-1, failure(Fault.AVAIL_GOES_BACK)),
    ],
)
@pytest.mark.parametrize("first", [0, 65533])
def test_the_avail_index_stays_within_the_ring(first: int, ahead: int, result: int) -> None:
    driver = new_driver(first=first)
    ring = kernel_ring(driver)
    driver.put(driver.avail + 2, first + ahead)
    assert read_avail_idx(ring) == result


def test_the_avail_index_cannot_take_back_what_was_seen() -> None:
    driver = new_driver(first=65534)
    ring = kernel_ring(driver)
    driver.put(driver.avail + 2, 65534 + 5)
    assert read_avail_idx(ring) == 0
    driver.put(driver.avail + 2, 65534 + 4)
    assert read_avail_idx(ring) == failure(Fault.AVAIL_GOES_BACK)


def test_used_elements_that_wrap_are_logged_at_both_ends_of_the_ring() -> None:
    """With a ring of more than a page, logged from the end of one on: its index is on page 0."""
    driver = new_driver(size=1024, first=1022)
    memory, net = kernel_memory(driver.memory, log_bytes=1), fresh.new_net()
    state = {"log_used": 1, "log_guest": 4096 - 4, "next_used": 1022 + 4, "flushed": 1022}
    assert flush_used(kernel_ring(driver, **state), memory, net)
    assert memory.log[0] == 0b0111


@settings(deadline=None)
@given(
    size=st.sampled_from([1, 2, 8, 64]), first=U16,
    batches=st.lists(
        st.tuples(st.integers(0, 64), st.integers(1, 64), st.integers(0, 64)), max_size=20
    ),
)  # fmt: skip
def test_chains_come_in_order_and_go_back_in_order(
    size: int,
    first: int,
    batches: list[tuple[int, int, int]],
) -> None:
    """A driver that offers, a device that holds some and gives back some, indices that wrap."""
    driver = new_driver(size, first)
    ring, queue, memory = kernel_ring(driver), fresh.new_queue(), no_log(driver)
    net = fresh.new_net()
    for head in range(size):
        driver.describe(head, BUFFERS + 16 * head, 1 + head)
    free, offered, back = list(range(size)), [], []
    for count, limit, finish in batches:
        heads, free = free[:count], free[count:]
        driver.offer(*heads)
        offered += heads
        assert pop_avail(ring, memory, queue, limit, 1 << 40) == 0
        held = int(queue.state[0]["count"])
        assert held <= max(limit, len(offered) - len(back))
        for _ in range(min(finish, held)):
            add_used(ring, queue, 1000 + offered[len(back)])
            back.append(offered[len(back)])
        flush_used(ring, memory, net)
        returned = driver.collect()
        assert all(written == 1000 + head for head, written in returned)
        free += [head for head, _ in returned]
        assert len(free) == size - (len(offered) - len(back))
    assert driver.seen == (first + len(back)) & 0xFFFF
    assert ring.state[0]["next_avail"] == (first + len(back)) & 0xFFFF


def test_pop_avail_holds_what_was_good_before_a_fault() -> None:
    driver = new_driver()
    ring, queue = kernel_ring(driver), fresh.new_queue()
    driver.describe(0, BUFFERS, 10)
    driver.describe(1, BUFFERS, 10, WRITE)
    driver.offer(0, 0, 1, 0)
    assert pop_avail(ring, no_log(driver), queue, 64, 1 << 40) == failure(Fault.WRONG_DIRECTION)
    assert queue.state[0]["count"] == 2


def test_pop_avail_stops_at_enough_bytes() -> None:
    driver = new_driver()
    ring, queue = kernel_ring(driver), fresh.new_queue()
    driver.describe(0, BUFFERS, 100)
    driver.offer(*[0] * 8)
    assert pop_avail(ring, no_log(driver), queue, 64, 250) == 0
    assert (queue.state[0]["count"], queue.state[0]["length"]) == (3, 300)


def test_pop_avail_says_when_iovecs_run_out() -> None:
    driver = Driver(GuestMemory((LOW, 0x20000)), 1024, LOW)
    driver.chain(0, [(LOW + 0x18000, 1)] * 600, write=False)
    ring, queue = kernel_ring(driver), fresh.new_queue()
    driver.offer(0, 0)
    assert pop_avail(ring, no_log(driver), queue, 64, 1 << 40) == IOVECS_FULL
    assert queue.state[0]["count"] == 1


@pytest.mark.parametrize("event_idx", [0, 1])
def test_kicks_are_asked_for_and_refused(event_idx: int) -> None:
    driver = new_driver(first=65535)
    ring, memory, net = kernel_ring(driver, event_idx=event_idx), no_log(driver), fresh.new_net()
    queue = fresh.new_queue()
    driver.describe(0, BUFFERS, 10)
    assert not enable_notification(ring, memory, net)
    assert (driver.used_flags, driver.avail_event) == (0, 65535 if event_idx else 0)
    driver.offer(0)
    assert enable_notification(ring, memory, net)
    pop_avail(ring, memory, queue, 1, 1)
    disable_notification(ring, memory, net)
    assert driver.used_flags == (0 if event_idx else 1)
    assert not enable_notification(ring, memory, net)
    assert (driver.used_flags, driver.avail_event) == (0, 0)


def test_calls_without_event_index_follow_the_drivers_flag() -> None:
    driver = new_driver()
    ring = kernel_ring(driver)
    assert needs_notification(ring)
    driver.set_no_interrupt(1)
    assert not needs_notification(ring)


@settings(deadline=None)
@given(first=U16, ahead=st.integers(0, 8), bursts=st.lists(st.integers(1, 8), min_size=1))
def test_calls_with_event_index(first: int, ahead: int, bursts: list[int]) -> None:
    """The first time always, later when the used index passes the driver's used_event."""
    driver = new_driver(first=first)
    ring, memory, net = kernel_ring(driver, event_idx=1), no_log(driver), fresh.new_net()
    queue = fresh.new_queue()
    driver.describe(0, BUFFERS, 10)
    event = (first + ahead) & 0xFFFF
    driver.set_used_event(event)
    done = 0
    for number, burst in enumerate(bursts):
        driver.offer(*[0] * burst)
        pop_avail(ring, memory, queue, burst, 1 << 40)
        for _ in range(burst):
            add_used(ring, queue, 0)
        assert flush_used(ring, memory, net)
        passed = done <= (event - first) % 65536 < done + burst
        assert needs_notification(ring) == (number == 0 or passed)
        done += burst
    assert not flush_used(ring, memory, net)


@pytest.mark.parametrize("event_idx", [0, 1])
@pytest.mark.parametrize("log_used", [0, 1])
@pytest.mark.parametrize("offset", [0, 4096 - 20, 4096 - 4])
def test_exactly_what_was_written_of_the_used_ring_is_logged(
    event_idx: int, log_used: int, offset: int
) -> None:
    """At log_guest, which need not be where the ring is; the ring lies across pages."""
    driver = Driver(GuestMemory((0, 0x10000)), 512, 0x2000)
    log_guest = 0x5000 + offset
    ring = kernel_ring(driver, event_idx=event_idx, log_used=log_used, log_guest=log_guest)
    memory = kernel_memory(driver.memory, 2)
    net = fresh.new_net()
    queue = fresh.new_queue()
    driver.describe(0, 0x8000, 10)
    for burst in [1, 300, 300]:
        before = driver.memory.read(driver.used, 6 + 8 * 512)
        memory.log[:] = 0
        driver.offer(*[0] * burst)
        enable_notification(ring, memory, net)
        pop_avail(ring, memory, queue, burst, 1 << 40)
        disable_notification(ring, memory, net)
        for _ in range(burst):
            add_used(ring, queue, 7)
        flush_used(ring, memory, net)
        after = driver.memory.read(driver.used, 6 + 8 * 512)
        changed = {i for i in range(len(after)) if before[i] != after[i]}
        logged = set(np.flatnonzero(np.unpackbits(memory.log, bitorder="little")))
        pages = {(log_guest + i) // 4096 for i in changed}
        assert pages <= logged if log_used else not logged
        reachable = range(log_guest // 4096, (log_guest + len(after) - 1) // 4096 + 1)
        assert logged <= set(reachable)
    assert net.faults.sum() == 0
