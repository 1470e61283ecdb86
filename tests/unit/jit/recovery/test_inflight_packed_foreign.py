# SPDX-License-Identifier: Apache-2.0
"""A packed ring that another back-end served, out of order: what it left; damaged regions."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.jit.frames import frames
from support.jit.inflight_packed_reference import ENTRY, HEADER, PackedReference
from support.jit.kernel_views import kernel_memory, kernel_ring
from support.jit.killing import BUFFERS, LENGTH, RING, new_net
from support.jit.killing import HEADER as NET_HEADER
from support.jit.packed_reference import PackedDriver
from support.jit.pair_rig import frame
from support.jit.ring_reference import GuestMemory

from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.net.transmit import transmit
from ovs_vhost_plugin.jit.recovery.inflight_packed import held
from ovs_vhost_plugin.jit.ring import packed
from ovs_vhost_plugin.vhost.memory import mapping
from ovs_vhost_plugin.worker.recovery.inflight import track
from ovs_vhost_plugin.worker.recovery.tracking import DamagedError, Tracking

SIZE, NUMBER = 11, 12
IDS = range(8)


class Foreign:
    """A ring that another back-end has served, out of order; odd buffer ids are of two pieces."""

    def __init__(self, first: int = 0) -> None:
        self.guest = GuestMemory((RING, 0x1000), (BUFFERS, 0x1000))
        self.driver = PackedDriver(self.guest, SIZE, RING, first)
        self.region = np.zeros(HEADER.size + ENTRY.size * NUMBER, np.uint8)
        self.back_end = PackedReference(self.driver, self.region)
        self.back_end.begin()
        self.heads: dict[int, int] = {}
        for i in IDS:
            at = BUFFERS + 0x100 * i
            self.guest.write(at, bytes(NET_HEADER) + frame(LENGTH, i))
            pieces = [(at, NET_HEADER + LENGTH)]
            if i % 2:
                pieces = [(at, NET_HEADER), (at + NET_HEADER, LENGTH)]
            self.driver.chain(i, pieces, write=False)

    def take(self, *ids: int) -> None:
        self.driver.offer(*ids)
        for i in ids:
            self.heads[i] = self.back_end.take()

    def give_back(self, *ids: int, steps: int | None = None) -> None:
        self.back_end.give_back([self.heads[i] for i in ids], steps)

    def ring(self, log_bytes: int = 0) -> tuple[layout.Vring, Tracking]:
        """As it starts where its front-end says: anywhere."""
        names = ("next_avail", "next_pop", "avail_idx", "next_used", "flushed")
        ring = kernel_ring(self.driver, packed=1, **dict.fromkeys(names, 1))
        ring.state["log_used"], ring.state["log_desc"] = log_bytes > 0, RING
        self.memory = kernel_memory(self.guest, log_bytes)
        return ring, track(ring, self.region, self.memory, new_net(-1))

    def send(self, ring: layout.Vring) -> list[bytes]:
        """What goes into the tap."""
        reader, writer = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
        transmit(ring, fresh.new_queue(), self.memory, new_net(writer), fresh.new_learned(-1))
        sent = []
        try:
            while True:
                sent.append(os.read(reader, 4096))
        except BlockingIOError:
            return sent
        finally:
            os.close(reader)
            os.close(writer)

    def collect(self) -> list[int]:
        return [i for i, _ in self.driver.collect()]


def served(first: int = 0) -> Foreign:
    """3, 7, 1 and 0 are in flight, of which 7 and 1 are in the ring no more."""
    case = Foreign(first)
    case.take(3, 1, 7, 0)
    case.give_back(1, 0)
    assert case.collect() == [1, 0]
    case.take(1, 0)
    return case


@pytest.mark.parametrize("first", [0, SIZE - 2, 2 * SIZE - 3])
def test_what_another_back_end_left_in_flight_is_resubmitted_in_order(first: int) -> None:
    case = served(first)
    case.driver.offer(6)
    ring, tracking = case.ring(log_bytes=8)
    assert len(tracking.heads) == 4
    assert case.memory.log[RING >> 15] & 1 << (RING >> 12) % 8
    assert case.send(ring) == frames(3, 7, 1, 0, 6)
    assert case.collect() == [3, 7, 1, 0, 6]
    assert case.back_end.in_flight() == (case.driver.seen, [])


def test_what_is_in_the_ring_already_is_not_written_again() -> None:
    case = Foreign()
    case.take(3, 1, 7, 0)
    case.ring(log_bytes=8)
    assert not case.memory.log.any()


@pytest.mark.parametrize("keep", [False, True])
def test_a_ring_that_is_handed_over_loses_nothing(keep: bool) -> None:
    case = served()
    _ring, tracking = case.ring()
    assert tracking.hand_over(keep=keep) == case.driver.seen
    assert case.back_end.header()["version"] == 0  # as if it had never been used
    names = ("next_avail", "next_pop", "avail_idx", "next_used", "flushed")
    ring = kernel_ring(case.driver, packed=1, **dict.fromkeys(names, case.driver.seen))
    tracking = track(ring, case.region, case.memory, new_net(-1))
    assert tracking.heads == []
    assert case.send(ring) == frames(3, 7, 1, 0)
    assert case.collect() == [3, 7, 1, 0]
    assert case.back_end.in_flight() == (case.driver.seen, [])


def test_after_a_pause_what_was_fetched_is_in_flight_once() -> None:
    case = Foreign()
    case.driver.offer(4, 5, 3)
    ring, tracking = case.ring()
    memory, queue = case.memory, fresh.new_queue()
    assert packed.pop_avail(ring, memory, queue, 64, 1 << 20) == 0
    before = case.region.tobytes()
    assert case.back_end.in_flight()[1] == [4, 5, 3]
    ring, tracking = case.ring()
    assert len(tracking.heads) == 3
    assert case.region.tobytes() == before
    assert case.send(ring) == frames(4, 5, 3)
    assert case.collect() == [4, 5, 3]
    assert case.back_end.in_flight() == (case.driver.seen, [])


def test_a_driver_that_changes_what_was_taken_harms_no_other_memory() -> None:
    """Long chains were in flight, and short ones are there when they are fetched again."""
    case = Foreign()
    case.take(1, 3, 5, 7)
    around = case.region.tobytes()
    ring, tracking = case.ring()
    case.driver.next_avail = 0
    case.driver.outstanding.clear()
    case.driver.offer(0, 2, 4, 6, 0, 2, 4, 6, 0, 2, 4)
    assert case.send(ring) == frames(0, 2, 4, 6, 0, 2, 4, 6, 0, 2, 4)
    assert len(case.region) == len(around)
    assert held(mapping.address(tracking.tracker)) == 0
    assert case.back_end.in_flight() == (SIZE, [])


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_it_resubmits_what_the_specification_says(data: st.DataObject) -> None:
    """Any history of a back-end that is killed within its last batch, or while it takes one."""
    case = Foreign(data.draw(st.integers(0, 2 * SIZE - 1), "first position"))
    free, held = set(IDS), list[int]()

    def offered() -> list[int]:
        wanted = data.draw(st.lists(st.sampled_from(sorted(free)), unique=True)) if free else []
        room, chosen = SIZE - sum(1 + i % 2 for i in held), []
        for i in wanted:
            if 1 + i % 2 <= room:
                chosen.append(i)
                room -= 1 + i % 2
        return chosen

    for _ in range(data.draw(st.integers(1, 6))):
        more = offered()
        case.take(*more)
        held += more
        free -= set(more)
        back = data.draw(st.lists(st.sampled_from(held), unique=True)) if held else []
        case.give_back(*back)
        held = [i for i in held if i not in back]
        free |= set(case.collect())
    new: list[int] = []
    if data.draw(st.booleans()) and held:
        last = data.draw(st.lists(st.sampled_from(held), unique=True))
        case.give_back(*last, steps=data.draw(st.integers(0, 20), "steps of the last batch"))
    elif new := offered()[:1]:
        case.driver.offer(*new)
        case.back_end.take(steps=data.draw(st.integers(0, 12), "steps of the last chain"))
    back = case.collect()
    position, expected = case.back_end.in_flight()
    begun = [i for i in new if i not in expected]
    assert sorted(back + expected + begun) == sorted(held + new)
    ring, tracking = case.ring()
    assert ring.state[0]["next_avail"] == position == case.driver.seen
    assert len(tracking.heads) == len(expected)
    rest = expected + begun
    assert case.send(ring) == frames(*rest)
    assert case.collect() == rest
    assert case.back_end.in_flight() == (case.driver.seen, [])
    assert not any(case.back_end.entry(i)["inflight"] for i in range(NUMBER))


def damaged(change: Callable[[Foreign], object]) -> Fault:
    case = served()
    change(case)
    before = case.region.tobytes(), case.guest.read(RING, 0x1000)
    with pytest.raises(DamagedError) as caught:
        case.ring()
    assert (case.region.tobytes(), case.guest.read(RING, 0x1000)) == before
    return caught.value.fault


@pytest.mark.parametrize("fields", [{"version": 2}, {"features": 1}, {"desc_num": 7}], ids=str)
def test_a_region_of_another_layout(fields: dict[str, int]) -> None:
    fault = damaged(lambda case: case.back_end.put_header(**fields))
    assert fault == Fault.INFLIGHT_VERSION


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.back_end.put_header(old_used_idx=SIZE),
        lambda c: c.back_end.put_header(used_idx=0xFFFF),
        lambda c: c.back_end.put_header(used_wrap_counter=2),
        lambda c: c.back_end.put_header(old_free_head=NUMBER),
        lambda c: c.back_end.put_entry(c.heads[3], num=0),
        lambda c: c.back_end.put_entry(c.heads[3], num=1),
        lambda c: c.back_end.put_entry(c.heads[3], next=NUMBER),
        lambda c: c.back_end.put_entry(c.heads[3], last=5),
        lambda c: c.back_end.put_entry(c.heads[3], flags=0),
        lambda c: c.back_end.put_entry(c.heads[0], inflight=0),
    ],
    ids=["old place", "place", "wrap", "no list", "none", "short", "link", "end", "flags", "lost"],
)
def test_lists_that_leave_the_region_or_end_elsewhere(change: Callable[[Foreign], object]) -> None:
    assert damaged(change) == Fault.INFLIGHT_OUT_OF_RANGE


def test_lists_that_loop() -> None:
    def loop(case: Foreign) -> None:
        head = case.back_end.header()["old_free_head"]
        case.back_end.put_entry(head, next=head)

    assert damaged(loop) == Fault.INFLIGHT_LOOPS
    for change in ({"num": 0xFFFF}, {"next": 2, "last": 2}):
        assert damaged(lambda c, f=change: c.back_end.put_entry(c.heads[3], **f)) == (
            Fault.INFLIGHT_LOOPS
        )


def test_a_region_of_a_ring_that_stood_elsewhere() -> None:
    place = {"used_idx": 9, "old_used_idx": 9}
    assert damaged(lambda case: case.back_end.put_header(**place)) == Fault.INFLIGHT_STALE


def test_more_in_flight_than_the_ring_has() -> None:
    """The region has room for a larger ring."""
    case = Foreign()
    case.take(1, 3, 5, 7, 0, 2, 4)
    free = case.back_end.header()["free_head"]
    case.back_end.put_entry(free, inflight=1, num=1, last=free)
    case.back_end.put_header(free_head=NUMBER, old_free_head=NUMBER)
    with pytest.raises(DamagedError, match="inflight-stale"):
        case.ring()
