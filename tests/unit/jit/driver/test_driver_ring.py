# SPDX-License-Identifier: Apache-2.0
"""The compiled driver's rings on the compiled device's: both ends of one ring, step by step."""

from __future__ import annotations

from collections import deque
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.jit.examples import examples
from support.jit.kernel_views import public_functions

from ovs_vhost_plugin.guest.compiled.memory import MarkedMemory
from ovs_vhost_plugin.guest.compiled.pool import BufferRing
from ovs_vhost_plugin.guest.frontend.frontend import VringSetup
from ovs_vhost_plugin.guest.soft import FEATURES, Config
from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.driver import packed, ring, split
from ovs_vhost_plugin.jit.driver.layout import BROKEN, NONE
from ovs_vhost_plugin.jit.recovery.journal import WORDS
from ovs_vhost_plugin.jit.ring import ring as device
from ovs_vhost_plugin.jit.ring.descriptor import packed_used_word, put_word
from ovs_vhost_plugin.jit.ring.offsets import USED_IDX
from ovs_vhost_plugin.jit.ring.position import slot_of, wrap_of
from ovs_vhost_plugin.vhost import packed_base
from ovs_vhost_plugin.vhost.spec import Feature

PACKED, EVENT_IDX = Feature.RING_PACKED.mask, Feature.RING_EVENT_IDX.mask
LENGTH = 4096
KINDS = [pytest.param(0, id="split"), pytest.param(PACKED, id="packed")]


class Ends:
    """A ring, its driver and its device; what is where, as lists of heads, is remembered."""

    def __init__(
        self, features: int = 0, *, size: int = 8, count: int = 0, first: int = 0, writes: bool
    ) -> None:
        self.packed = bool(features & PACKED)
        config = Config(size=size, features=FEATURES & ~EVENT_IDX | features, first_index=first)
        self.count, self.writes = count or size, writes
        memory = MarkedMemory.of_size(self.count * LENGTH + 64 * size + (16 << 12))
        self.buffers = BufferRing(memory, config, LENGTH, self.count, writes=writes)
        self.vring = VringSetup(0, self.buffers.queue)
        self.driver = self.buffers.data(memory, self.vring)
        self.device = self._device(config)
        self.memory = self._regions(memory)
        self.queue, self.net = fresh.new_queue(), fresh.new_net()
        self.added: list[int] = []
        self.shown: deque[tuple[int, int]] = deque()  # with their lengths
        self.held: deque[int] = deque()
        self.used: list[tuple[int, int]] = []
        self.done: deque[tuple[int, int]] = deque()
        self.device_sleeps = False
        self.delay: int | None = None  # calls that the driver sleeps through

    def _device(self, config: Config) -> layout.Vring:
        state = np.zeros(1, layout.RING_DTYPE)
        begin = int(self.driver.state["next"][0])
        values = {
            "size": config.size,
            "writes": self.writes,
            "enabled": 1,
            "packed": self.packed,
            "event_idx": config.has(Feature.RING_EVENT_IDX),
            "called": begin,
            "called_valid": 1,
        }
        for place in ("next_avail", "next_pop", "avail_idx", "next_used", "flushed"):
            values[place] = begin
        for name, value in values.items():
            state[name] = value
        parts = self.driver.desc, self.driver.avail, self.driver.used, self.driver.elements
        return layout.Vring(*parts, state, np.zeros(WORDS, np.int64))

    def _regions(self, memory: MarkedMemory) -> layout.Memory:
        table = np.zeros(1, layout.REGION_DTYPE)
        region = memory.regions[0]
        host = memory.array(region.guest_address, 1, np.uint8).ctypes.data
        table[0] = (region.guest_address, region.size, host)
        return layout.Memory(table, np.zeros(0, np.uint8))

    @property
    def free(self) -> int:
        return int(self.driver.state["free"][0])

    # -- the driver

    def offer(self, count: int, length: int) -> None:
        length = LENGTH if self.writes else length
        for _ in range(min(count, self.free)):
            self.added.append(int(self.driver.free[self.free - 1]))
            ring.offer(self.driver, length)
            self.shown.append((self.added[-1], length))

    def publish(self) -> None:
        """Chains are shown; a device that sleeps is kicked for the first of them."""
        kick = ring.publish(self.driver)
        assert kick or not (self.added and self.device_sleeps)
        assert not (kick and not self.added)
        if self.added:
            self.device_sleeps = False
        self.added = []

    def collect(self, most: int) -> None:
        for _ in range(most):
            expected = self.done.popleft() if self.done else (NONE, 0)
            head, written = ring.collect(self.driver)
            assert head == expected[0]
            assert written == expected[1] or not self.writes
        self.delay = None  # it is awake
        ring.disable_calls(self.driver)

    def sleep(self, delay: int) -> None:
        """The driver asks for a call, and sleeps unless as many chains are used already."""
        delay = min(delay, self.count - 1)
        more = ring.enable_calls(self.driver, delay)
        assert more == (len(self.done) > delay)
        self.delay = None if more else delay
        if more:
            ring.disable_calls(self.driver)

    # -- the device

    def pop(self, most: int) -> None:
        """The device is awake, and takes chains that are shown, each as it was offered."""
        device.disable_notification(self.device, self.memory, self.net)
        self.device_sleeps = False
        before = len(self.held)
        assert device.pop_avail(self.device, self.memory, self.queue, before + most, 1 << 30) == 0
        visible = len(self.shown) - len(self.added)
        state = self.queue.state[0]
        assert int(state["count"]) == before + min(most, visible)
        buffers, first = int(self.driver.state["buffers"][0]), int(state["first"])
        for at in range(before, int(state["count"])):
            head, length = self.shown.popleft()
            chain = self.queue.chains[(int(state["head"]) + at) % layout.CHAINS]
            iovec = self.queue.iov[first + at]
            assert (int(chain["head"]), int(chain["iovecs"])) == (head, 1)
            assert (int(iovec["base"]), int(iovec["len"])) == (buffers + head * LENGTH, length)
            self.held.append(head)

    def use(self, most: int, written: int) -> None:
        for _ in range(min(most, len(self.held))):
            device.add_used(self.device, self.queue, written if self.writes else 0)
            self.used.append((self.held.popleft(), written))

    def flush(self) -> None:
        """The used chains are shown; a driver that sleeps is called when it asked for that."""
        flushed = device.flush_used(self.device, self.memory, self.net)
        assert flushed == bool(self.used)
        self.done += self.used
        self.used = []
        if not flushed:
            return
        called = device.needs_notification(self.device)
        enough = self.delay is not None and len(self.done) > self.delay
        assert called or not enough
        events = bool(self.device.state["event_idx"][0])
        if self.packed and events:
            assert called == enough  # nor too early (2.8.10)
        if self.packed or not events:
            assert not (called and self.delay is None)  # it wants none
        if called:
            self.delay = None
            ring.disable_calls(self.driver)

    def rest(self) -> None:
        """The device asks for kicks, and sleeps unless there are chains."""
        more = device.enable_notification(self.device, self.memory, self.net)
        assert more == (len(self.shown) > len(self.added))
        self.device_sleeps = not more

    # -- a device of another kind

    def say_used(self, head: int, written: int) -> None:
        """Use a chain as a device may that has an order of its own, or breaks the rules."""
        state, size = self.device.state[0], int(self.device.state["size"][0])
        at = int(state["next_used"])
        if self.packed:
            word = packed_used_word(head, written, wrap_of(size, at), int(self.writes))
            put_word(self.driver.desc, slot_of(size, at), word)
            state["next_used"] = (at + 1) % (2 * size)
        else:
            self.driver.elements[2 * (at % size) : 2 * (at % size) + 2] = head, written
            state["next_used"] = (at + 1) & 0xFFFF
            self.driver.used[USED_IDX] = state["next_used"]


SOME = st.integers(1, 20)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), SOME, st.integers(1, LENGTH)),
        st.tuples(st.just("publish")),
        st.tuples(st.just("collect"), SOME),
        st.tuples(st.just("sleep"), st.integers(0, 8)),
        st.tuples(st.just("pop"), SOME),
        st.tuples(st.just("use"), SOME, st.integers(0, LENGTH)),
        st.tuples(st.just("flush")),
        st.tuples(st.just("rest")),
        st.tuples(st.just("pass_on"), SOME, st.integers(1, LENGTH)),
    ),
    max_size=80,
)

AWAKE = [("sleep", 0), *[("pass_on", 1, 1)] * 5]
"""A driver that was called once, and then has enough to do."""


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([0, PACKED]), st.sampled_from([0, EVENT_IDX]), st.booleans(),
    st.integers(1, 12), st.sampled_from([0, 1, 5, 65530]), st.integers(1, 12), STEPS,
)  # fmt: skip
@example(0, 0, True, 4, 0, 4, AWAKE)
@example(PACKED, 0, True, 4, 0, 4, AWAKE)
@example(PACKED, EVENT_IDX, True, 4, 0, 4, AWAKE)
def test_every_chain_goes_round_and_nobody_sleeps_through_one(
    kind: int, events: int, writes: bool, size: int, first: int, count: int, steps: list[Any]
) -> None:
    size = size if kind else 1 << size.bit_length() - 1
    count = size if writes else min(count, size)
    ends = Ends(kind | events, size=size, count=count, first=first, writes=writes)
    for name, *arguments in steps:
        if name == "pass_on":  # all in a row, so that the ring goes round
            ends.offer(*arguments)
            ends.publish()
            ends.pop(arguments[0])
            ends.use(*arguments)
            ends.flush()
            ends.collect(arguments[0])
        else:
            getattr(ends, name)(*arguments)
    ends.use(len(ends.held), 0)
    ends.flush()
    position = int(ends.device.state["next_used"][0])
    assert ends.vring.queue.base == (packed_base.encode(position, size) if kind else position)
    ends.vring.close()


@pytest.mark.parametrize("kind", KINDS)
def test_buffers_come_back_in_any_order(kind: int) -> None:
    ends = Ends(kind | EVENT_IDX, writes=False)
    for turn in range(5):
        ends.offer(8, 100 + turn)
        ends.publish()
        ends.pop(8)
        order = [int(head) for head in np.random.default_rng(turn).permutation(ends.held)]
        for head in order:
            ends.say_used(head, 0)
        assert [ring.collect(ends.driver)[0] for _ in range(9)] == [*order, NONE]
        ends.held.clear()
        _begin_again(ends)
    ends.vring.close()


def _begin_again(ends: Ends) -> None:
    """Have the device hold nothing, behind what it used by itself."""
    state = ends.device.state[0]
    for place in ("next_avail", "flushed"):
        state[place] = state["next_used"]
    fresh.empty(ends.queue)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("writes", [True, False], ids=["rx", "tx"])
def test_a_device_may_use_only_what_it_has_got(kind: int, writes: bool) -> None:
    for head, written, twice in [
        (8, 1, 0),
        (0xFFFF, 1, 0),
        (6, 1, 0),
        (0, LENGTH + 1, 0),
        (7, 1, 1),
    ]:
        ends = Ends(kind, count=7, writes=writes)
        ends.offer(6, LENGTH)
        ends.publish()
        if twice:
            head = ends.shown[0][0]
            ends.say_used(head, written)
            assert ring.collect(ends.driver) == (head, written)
        offered = head in [mine for mine, _ in ends.shown] and not twice
        ends.say_used(head, written)
        # The length of a buffer that it only reads says nothing (2.8.13).
        assert (ring.collect(ends.driver)[0] == BROKEN) == (not offered or writes)
        ends.vring.close()


@pytest.mark.parametrize("kind", KINDS)
def test_offer_all_leaves_nothing_free(kind: int) -> None:
    ends = Ends(kind, writes=True)
    ring.offer_all(ends.driver)
    assert ends.free == 0 and ends.driver.offered.all()
    assert ring.publish(ends.driver)
    assert device.pop_avail(ends.device, ends.memory, ends.queue, 9, 1 << 30) == 0
    assert int(ends.queue.state[0]["count"]) == 8
    ends.vring.close()


@pytest.mark.parametrize("module", [split, packed], ids=["split", "packed"])
def test_each_layout_has_the_functions_of_a_drivers_ring(module: ModuleType) -> None:
    shape, own = public_functions(ring), public_functions(module)
    assert list(own.items()) == list(shape.items())[: len(own)]
    assert len(own) == 5
