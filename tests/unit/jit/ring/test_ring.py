# SPDX-License-Identifier: Apache-2.0
"""The compiled rings against the plain device, whatever the driver does: split and packed.

Two memories begin the same. The driver does everything to both; the kernels serve one, the plain
device the other. After each step memory, answers and held chains have to be the same: so what the
kernels write is right to the byte, and what they refuse is refused under the same name.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.jit.device_reference import PackedDevice, Settings, SplitDevice
from support.jit.examples import examples
from support.jit.kernel_views import kernel_memory, kernel_ring, public_functions
from support.jit.packed_reference import PackedDriver, packed_descriptor
from support.jit.ring_reference import INDIRECT, NEXT, WRITE, Driver, GuestMemory, descriptor

from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.result import fault_of
from ovs_vhost_plugin.jit.ring import packed, ring, split

LOW, HIGH = 0x10000, 0x20000
TABLES = LOW + 0x4000
BUFFERS = LOW + 0x8000
Driving = Any


class Twins:
    """A driver with two memories; `steps` are what Hypothesis has it and the device do."""

    def __init__(self, packed: bool, size: int, first: int, state: Settings) -> None:
        self.packed, self.size, self.state = packed, size, state
        self.drivers: list[Driving] = []
        for _ in range(2):
            memory = GuestMemory((LOW, 0x10000), (HIGH, 0x1000))
            if packed:
                self.drivers.append(PackedDriver(memory, size, LOW, first, state.in_order))
            else:
                self.drivers.append(Driver(memory, size, LOW, first))
        mine, theirs = self.drivers
        self.plain = (PackedDevice if packed else SplitDevice)(theirs, state)  # type: ignore[arg-type]
        self.ring = kernel_ring(
            mine, packed=packed, event_idx=state.event_idx, indirect=state.indirect,
            in_order=state.in_order, writes=state.writes,
        )  # fmt: skip
        self.memory = kernel_memory(mine.memory)
        self.queue, self.net = fresh.new_queue(), fresh.new_net()
        self.free = list(range(size))  # descriptors of a split ring, ids of a packed one
        self.room = size
        self.chains: dict[int, list[int]] = {}
        self.ordered: list[int] = []

    # -- the driver

    def offer(self, shape: list[tuple[int, int, int]], table: bool, wrong: int) -> None:
        """A chain of (address, length, further flags), in a table or not, if there is room."""
        slots = 1 if table else len(shape)
        if slots > min(self.room, len(self.free)):
            return
        taken = [self.free.pop(0) for _ in range(slots)]
        head = taken[0]
        self.room -= slots
        if self.packed:
            self.free += taken[1:]
            taken = taken[:1]
        self.chains[head] = taken + [-1] * (slots - len(taken))
        write = WRITE if self.state.writes else 0
        last = len(shape) - 1
        entries = [
            (address, length, write ^ flags | (NEXT if i < last else 0))
            for i, (address, length, flags) in enumerate(shape)
        ]
        for driver in self.drivers:
            self._write(driver, head, taken, entries, table, wrong)

    def _write(
        self,
        driver: Driving,
        head: int,
        taken: list[int],
        entries: list[tuple[int, int, int]],
        table: bool,
        wrong: int,
    ) -> None:
        if table:
            at = TABLES + 256 * head
            make = packed_descriptor if self.packed else descriptor
            data = b"".join(make(*entry, i + 1) for i, entry in enumerate(entries))
            driver.memory.write(at, data)
            entries = [(at, len(data) + wrong, INDIRECT)]
        if self.packed:
            driver.described[head] = entries
        else:
            for i, (index, entry) in enumerate(zip(taken, entries, strict=True)):
                driver.describe(index, *entry, taken[i + 1] if i + 1 < len(taken) else 0)
        driver.offer(head)

    def collect(self) -> None:
        mine, theirs = (driver.collect() for driver in self.drivers)
        assert mine == theirs
        for head, _ in mine:
            slots = self.chains.pop(head)
            self.free += [index for index in slots if index >= 0]
            self.room += len(slots)

    def want_calls(self, kind: int, value: int) -> None:
        for driver in self.drivers:
            if kind == 0:
                driver.set_no_interrupt(value % 4 if self.packed else value % 2)
            elif self.packed:
                driver.set_event(value % (2 * self.size))
            else:
                driver.set_used_event(value)

    def poke(self, slot: int, word: int, value: int) -> None:
        """What no driver does: 16 bits of a descriptor, or (split) of the avail ring."""
        for driver in self.drivers:
            at = driver.desc + 16 * ((driver.next_avail + slot) % self.size) + 2 * word
            if word > 7:
                at = driver.avail + (2 * word - 14 if not self.packed else 0)
            driver.put(at, value)

    def pass_one(self, shape: list[tuple[int, int, int]], written: int) -> str:
        """A chain goes all the way, so that much happens in few steps."""
        self.offer(shape, False, 0)
        fault = self.pop_avail(16, 1 << 40)
        if not fault:
            self.add_used(2, written)
            self.flush_used()
        return fault

    # -- the device

    def pop_avail(self, chains: int, length: int) -> str:
        result = ring.pop_avail(self.ring, self.memory, self.queue, chains, length)
        name = Fault(fault_of(result)).name if result < 0 else ""
        assert name == self.plain.pop_avail(chains, length)
        return name

    def add_used(self, count: int, written: int) -> None:
        for _ in range(min(count, len(self.plain.held))):
            written = written if self.state.writes else 0
            ring.add_used(self.ring, self.queue, written)
            self.plain.add_used(written)

    def flush_used(self) -> None:
        done = ring.flush_used(self.ring, self.memory, self.net)
        assert done == self.plain.flush_used()
        if done:
            assert ring.needs_notification(self.ring) == self.plain.needs_notification()

    def ask(self) -> None:
        mine = ring.enable_notification(self.ring, self.memory, self.net)
        assert mine == self.plain.enable_notification()

    def refuse(self) -> None:
        ring.disable_notification(self.ring, self.memory, self.net)
        self.plain.disable_notification()

    def compare(self) -> None:
        mine, theirs = (driver.memory for driver in self.drivers)
        assert mine.snapshot() == theirs.snapshot()
        state, at = self.queue.state[0], int(self.queue.state[0]["first"])
        for i, chain in enumerate(self.plain.held):
            record = self.queue.chains[(int(state["head"]) + i) % layout.CHAINS]
            assert int(record["head"]) == chain.head
            pieces = self.queue.iov[at : at + int(record["iovecs"])]
            shift = mine.host(LOW) - theirs.host(LOW), mine.host(HIGH) - theirs.host(HIGH)
            for piece, (host, length) in zip(pieces, chain.pieces, strict=True):
                assert int(piece["len"]) == length
                assert int(piece["base"]) - host in shift
            at += len(pieces)
        assert int(state["count"]) == len(self.plain.held)


GOOD = st.tuples(
    st.integers(BUFFERS, BUFFERS + 0x7000) | st.integers(HIGH - 40, HIGH + 40),
    st.integers(1, 3000), st.just(0),
)  # fmt: skip
ANY = st.tuples(
    st.integers(HIGH + 0xF00, HIGH + 0x1010) | st.integers(2**64 - 9, 2**64 - 1),
    st.sampled_from([0, 1, 16, 2**32 - 1]), st.sampled_from([0, 0, WRITE, INDIRECT]),
)  # fmt: skip
SHAPE = st.lists(GOOD, min_size=1, max_size=4)
WRITTEN = st.integers(0, 2**31 - 1)  # of more, plain Python makes no int64 of an entry
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pass_one"), SHAPE, WRITTEN),
        st.tuples(st.just("pass_one"), SHAPE, WRITTEN),
        st.tuples(st.just("collect")),
        st.tuples(st.just("offer"), SHAPE, st.booleans(), st.just(0)),
        st.tuples(st.just("offer"), SHAPE, st.booleans(), st.just(0)),
        st.tuples(st.just("pop_avail"), st.integers(0, 9), st.sampled_from([1, 5000, 1 << 40])),
        st.tuples(st.just("add_used"), st.integers(1, 9), WRITTEN),
        st.tuples(st.just("flush_used")),
        st.tuples(st.just("collect")),
        st.tuples(st.just("want_calls"), st.integers(0, 1), st.integers(0, 65535)),
        st.sampled_from([("ask",), ("refuse",)]),
    ),
    min_size=10,
    max_size=50,
)
WRONG = st.one_of(
    st.tuples(st.just("offer"), st.lists(GOOD | ANY, min_size=1, max_size=4), st.booleans(),
              st.sampled_from([0, 0, 1, -16, 1 << 20])),
    st.tuples(st.just("poke"), st.integers(0, 2), st.sampled_from([4, 5, 6, 7, 7, 7, 8, 8, 9, 10]),
              st.sampled_from([0, 1, 2, 3, 4, 5, 0x80, 0x81, 0x8000, 0x8001, 0x8080, 65535])),
)  # fmt: skip


@settings(max_examples=examples(300), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    packed=st.booleans(),
    size=st.integers(1, 16),
    first=st.integers(0, 31) | st.integers(65500, 65535),
    bits=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    steps=STEPS,
    wrong=st.none() | WRONG,
    place=st.integers(0, 50),
)
def test_do_what_the_plain_device_does(
    packed: bool,
    size: int,
    first: int,
    bits: tuple[bool, bool, bool, bool],
    steps: list[Any],
    wrong: Any,
    place: int,
) -> None:
    state = Settings(*bits)
    size = size if packed else 1 << size.bit_length() - 1
    twins = Twins(packed, size, first, state)
    good = len(steps) if wrong is None else min(place, len(steps))
    for number, step in enumerate([*steps[:good], *([wrong] if wrong else []), *steps[good:]]):
        if step[0] == "offer" and step[2] and not state.indirect and number < good:
            continue  # a table that was not negotiated
        if step[0] == "collect" and number > good:
            continue  # what it wrote may be beyond what a driver can make sense of
        if getattr(twins, step[0])(*step[1:]):
            assert wrong is not None, "a good driver is refused"
            twins.compare()
            return  # broken
        twins.compare()


@pytest.mark.parametrize("module", [split, packed], ids=["split", "packed"])
def test_each_layout_has_the_functions_of_a_ring_in_its_order(module: ModuleType) -> None:
    shape, own = public_functions(ring), public_functions(module)
    assert [(name, own[name]) for name in own if name in shape] == list(shape.items())
