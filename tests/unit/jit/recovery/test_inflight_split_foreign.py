# SPDX-License-Identifier: Apache-2.0
"""A ring that another back-end served, out of order: what it left in flight; damaged regions."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.jit.frames import frames
from support.jit.inflight_reference import ENTRY, HEADER, Reference
from support.jit.kernel_views import kernel_memory, kernel_ring
from support.jit.killing import BUFFERS, LENGTH, RING, new_net
from support.jit.killing import HEADER as NET_HEADER
from support.jit.pair_rig import frame
from support.jit.ring_reference import Driver, GuestMemory

from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.net.transmit import transmit
from ovs_vhost_plugin.worker.recovery.inflight import track
from ovs_vhost_plugin.worker.recovery.tracking import DamagedError, Tracking


class Foreign:
    """A ring of 8 that another back-end has served, out of order."""

    def __init__(self, first: int = 0) -> None:
        self.guest = GuestMemory((RING, 0x1000), (BUFFERS, 0x1000))
        self.driver = Driver(self.guest, 8, RING, first)
        self.region = np.zeros(HEADER.size + ENTRY.size * 8, np.uint8)
        self.back_end = Reference(self.driver, self.region)
        self.back_end.begin()
        for head in range(8):
            self.guest.write(BUFFERS + 0x100 * head, bytes(NET_HEADER) + frame(LENGTH, head))
            self.driver.chain(head, [(BUFFERS + 0x100 * head, NET_HEADER + LENGTH)], write=False)

    def take(self, *heads: int) -> None:
        self.driver.offer(*heads)
        assert [self.back_end.take() for _ in heads] == list(heads)

    def ring(self) -> tuple[layout.Vring, Tracking]:
        used = self.driver.used_idx
        state = dict.fromkeys(("next_avail", "next_pop", "avail_idx"), used)
        ring = kernel_ring(self.driver, next_used=used, flushed=used, **state)
        return ring, track(ring, self.region, kernel_memory(self.guest), new_net(-1))

    def send(self, ring: layout.Vring) -> list[bytes]:
        """What goes into the tap."""
        reader, writer = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
        queue, memory = fresh.new_queue(), kernel_memory(self.guest)
        transmit(ring, queue, memory, new_net(writer), fresh.new_learned(-1))
        sent = []
        try:
            while True:
                sent.append(os.read(reader, 4096))
        except BlockingIOError:
            return sent
        finally:
            os.close(reader)
            os.close(writer)


@pytest.mark.parametrize("first", [0, 0xFFFE])
def test_what_another_back_end_left_in_flight_is_resubmitted_in_order(first: int) -> None:
    case = Foreign(first)
    case.take(3, 1, 7, 0)
    case.back_end.give_back([1, 0])
    case.driver.collect()
    case.take(1, 0, 5, 6, 2, 4)
    case.back_end.give_back([6, 4])
    case.driver.collect()
    case.driver.offer(6)  # 3 and 7 are in the avail ring no more
    ring, tracking = case.ring()
    assert tracking.heads == [3, 7, 1, 0, 5, 2]
    assert case.send(ring) == frames(3, 7, 1, 0, 5, 2, 6)
    assert [head for head, _ in case.driver.collect()] == [3, 7, 1, 0, 5, 2, 6]
    assert case.back_end.in_flight() == []


@pytest.mark.parametrize("keep", [False, True])
def test_a_ring_that_is_handed_over_loses_nothing(keep: bool) -> None:
    case = Foreign()
    case.take(3, 1, 7, 0)
    case.back_end.give_back([1, 7, 0])
    case.driver.collect()
    case.take(1, 7)  # 3 is in the avail ring no more, these are
    case.driver.offer(0, 2)
    _ring, tracking = case.ring()
    assert tracking.hand_over(keep=keep) == 4
    if keep:
        assert case.back_end.in_flight() == [3]
        assert case.driver.collect() == []
    else:
        assert case.back_end.header()[1] == 0  # as if it had never been used
        assert case.driver.collect() == [(3, 0)]
    ring, _tracking = case.ring()
    assert case.send(ring) == frames(*[3] * keep, 1, 7, 0, 2)
    assert case.back_end.in_flight() == []


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_resubmits_what_the_specification_says(data: st.DataObject) -> None:
    """Any history of a back-end that is killed within its last batch."""
    case = Foreign(data.draw(st.integers(0, 0xFFFF), "first index"))
    free, held = set(range(8)), list[int]()
    for _ in range(data.draw(st.integers(1, 6))):
        offered = data.draw(st.lists(st.sampled_from(sorted(free)), unique=True)) if free else []
        case.take(*offered)
        held += offered
        free -= set(offered)
        back = data.draw(st.lists(st.sampled_from(held), unique=True)) if held else []
        case.back_end.give_back(back)
        held = [head for head in held if head not in back]
        free |= {head for head, _ in case.driver.collect()}
    last = data.draw(st.lists(st.sampled_from(held), unique=True)) if held else []
    case.back_end.give_back(last, data.draw(st.integers(0, 3), "steps of the last batch"))
    back = [head for head, _ in case.driver.collect()]
    expected = case.back_end.in_flight()
    assert sorted(back + expected) == sorted(held)
    ring, tracking = case.ring()
    assert tracking.heads == expected
    assert case.send(ring) == frames(*expected)
    assert [head for head, _ in case.driver.collect()] == expected
    assert not any(case.back_end.entry(head)[0] for head in range(8))


def damaged(change: Callable[[Foreign], object]) -> Fault:
    case = Foreign()
    case.take(3, 1, 7, 0)
    case.back_end.give_back([1, 0], steps=2)
    change(case)
    before = case.region.tobytes()
    with pytest.raises(DamagedError) as caught:
        case.ring()
    assert case.region.tobytes() == before
    return caught.value.fault


@pytest.mark.parametrize("fields", [{"version": 2}, {"features": 1}, {"desc_num": 7}], ids=str)
def test_a_region_of_another_layout(fields: dict[str, int]) -> None:
    fault = damaged(lambda case: case.back_end.put_header(**fields))
    assert fault == Fault.INFLIGHT_VERSION


def test_a_list_that_leaves_the_region() -> None:
    change = {"last_batch_head": 8}
    assert damaged(lambda c: c.back_end.put_header(**change)) == Fault.INFLIGHT_OUT_OF_RANGE


def test_a_head_beyond_the_ring() -> None:
    """The region has room for a larger ring."""
    case = Foreign()
    case.region = np.zeros(HEADER.size + ENTRY.size * 16, np.uint8)
    back_end = Reference(case.driver, case.region)
    back_end.begin()
    back_end.put_entry(8, 1, 0, 0)
    with pytest.raises(DamagedError, match="inflight-out-of-range"):
        case.ring()


def test_a_list_that_loops() -> None:
    assert damaged(lambda c: c.back_end.put_entry(0, 1, 0, 3)) == Fault.INFLIGHT_LOOPS


@pytest.mark.parametrize(
    "change",
    [
        lambda case: case.back_end.put_header(used_idx=0xFFF9),
        lambda case: case.back_end.put_entry(5, 1, 0, 9),
    ],
    ids=["longer ago than a batch", "never offered"],
)
def test_a_region_of_a_ring_that_stood_elsewhere(change: Callable[[Foreign], object]) -> None:
    assert damaged(change) == Fault.INFLIGHT_STALE
