# SPDX-License-Identifier: Apache-2.0
"""A queue pair in place of another: whether the journal is believed, and where the rings go on."""

from __future__ import annotations

import select
import socket
from errno import ESTALE
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.jit.kernel_views import kernel_memory, kernel_ring
from support.jit.packed_reference import PackedDriver
from support.jit.pair_rig import EMPTY, PACKED, TX_BUFFERS, Rig, await_that, frame, not_for_ever
from support.jit.ring_reference import Driver, GuestMemory

from ovs_vhost_plugin.jit import fresh
from ovs_vhost_plugin.jit.recovery.journal import (
    BEGUN,
    DEVICE_EVENT,
    DEVICE_EVENT_BEFORE,
    ENTRIES,
    FLUSHED,
    MOST_ENTRIES,
    WORDS,
    begun_word,
    entry,
)
from ovs_vhost_plugin.jit.recovery.resume import resume
from ovs_vhost_plugin.jit.ring.offsets import EVENT_FLAGS_DISABLE
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.recovery import journal

RX, TX = b"the receive ring", b"a transmit ring."
BASE = 1 << 20


class Takeover(Rig):
    """A rig whose journals outlive its pair."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.journals = [journal.fresh(), journal.fresh()]
        self.another()

    def another(self) -> None:
        """The worker has ended, the next one is here."""
        self.pair.close()
        self.pair = QueuePair(0, self.tap.fileno(), journals=self.journals)
        self.pair.on_stuck = not_for_ever

    def begin(self, rx: bytes = RX, tx: bytes = TX, base: int = 0) -> tuple[int, int]:
        """Start as a front-end has it that knows only the base; return where the rings begin."""
        vrings = {
            "rx": self.vring("rx", identity=rx, next_avail=base),
            "tx": self.vring("tx", identity=tx, next_avail=base),
        }
        self.pair.prepare(self.config(**vrings))
        assert self.pair.rx.position is not None and self.pair.tx.position is not None
        begun = self.pair.rx.position, self.pair.tx.position
        self.pair.start()
        return begun

    def pass_frames(self, count: int) -> None:
        """Frames both ways, one by one."""
        for i in range(count):
            self.transmit(EMPTY + frame(60, i))
            self.kick("tx")
            assert self.wire.recv(4096) == EMPTY + frame(60, i)
            self.offer_buffers(1, 1500)
            self.kick("rx")
            self.wire.send(EMPTY + frame(70, i))
            await_that(lambda: self.rx.collect(), "a frame")
            await_that(lambda: self.tx.collect(), "the chain")


def test_another_worker_goes_on_where_the_one_before_stood(both_layouts: None) -> None:
    with Takeover() as rig:
        rig.begin()
        for more, before in ((5, 5), (21, 26)):
            rig.pass_frames(more)
            rig.another()
            if rig.extra_features & PACKED:
                assert rig.begin() == (before, before)
            else:  # QEMU says the used index
                assert rig.begin(base=before) == (before, before)
            rig.called("rx")  # whether it was, nobody knows
            rig.called("tx")
        rig.pass_frames(3)


def test_a_frame_that_the_tap_had_no_room_for_is_sent_by_the_next_worker(
    both_layouts: None,
) -> None:
    """It was promised to the tap, which refused it: it did not go."""
    frames = [EMPTY + frame(60, seed) for seed in range(16)]
    with Takeover() as rig:
        rig.tap.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        rig.begin()
        for seed, data in enumerate(frames):
            rig.memory.write(TX_BUFFERS + 100 * seed, data)
            rig.tx.chain(seed, [(TX_BUFFERS + 100 * seed, len(data))], write=False)
        rig.tx.offer(*range(16))
        rig.kick("tx")
        await_that(lambda: rig.pair.counters["tx_packets"] > 0)
        rig.idle()
        rig.another()
        got = []
        while select.select([rig.wire], [], [], 0)[0]:
            got.append(rig.wire.recv(4096))
        assert 0 < len(got) < 16
        done = 0 if rig.extra_features & PACKED else rig.tx.used_idx
        assert rig.begin(base=done)[1] == len(got)
        got += [rig.wire.recv(4096) for _ in range(16 - len(got))]
        assert got == frames


def test_one_that_ends_before_its_front_end_comes_leaves_the_journal_as_it_was() -> None:
    with Takeover(features=PACKED | Rig.extra_features) as rig:
        rig.begin()
        rig.pass_frames(5)
        rig.another()
        rig.another()
        assert rig.begin() == (5, 5)


def test_a_ring_that_its_front_end_has_used_goes_on_behind_that() -> None:
    """As QEMU that lost its back-end, and gives chains back where it last knew the ring to be."""
    with Takeover(features=PACKED | Rig.extra_features, size=8) as rig:
        rig.begin()
        rig.pass_frames(13)
        rig.idle()
        rig.another()
        for i in range(5):  # at 13, 14, 15, 0 and 1
            rig.transmit(EMPTY + frame(60, i), start=i)
        rig.tx.put_used(0, 3)
        assert rig.begin(base=1) == (13, 1)
        assert rig.wire.recv(4096) == EMPTY + frame(60, 4)  # the last one, and no other
        chains = await_that(lambda: rig.tx.used_idx == 2 and rig.tx.collect(), "all chains")
        assert [head for head, _ in chains] == [0, 1, 2, 3, 4]
        assert rig.pair.counters["tx_dropped_unserved"] == 3  # those before the front-end's
        rig.pass_frames(20)
        assert rig.pair.take_faults() == []


def test_a_front_end_that_lets_the_driver_not_kick_is_no_reason_to_doubt_the_journal() -> None:
    """QEMU does, each time that it loses its back-end: also if the ring was quiet between two."""
    with Takeover(features=PACKED | Rig.extra_features) as rig:
        rig.begin()
        rig.pass_frames(5)
        for _ in range(3):
            rig.idle()
            rig.another()
            rig.tx.put(rig.tx.used + 2, EVENT_FLAGS_DISABLE)
            assert rig.begin() == (5, 5)


@pytest.mark.parametrize("what", ["another ring", "handed over", "made anew"])
def test_a_journal_of_what_is_no_more_is_not_believed(what: str) -> None:
    with Takeover(features=PACKED | Rig.extra_features) as rig:
        rig.begin()
        rig.pass_frames(5)
        rig.idle()
        if what == "handed over":
            for vring in rig.pair.rings:
                vring.end_journal()
        rig.another()
        if what == "made anew":
            for ring in (rig.rx, rig.tx):
                rig.memory.write(ring.desc, bytes(ring.end - ring.desc))
                ring.next_avail = ring.seen = 0
            rig.offer_buffers(16, 1500)
        if what == "another ring":
            assert rig.begin(rx=TX, tx=RX) == (0, 0)
        else:
            assert rig.begin() == (0, 0)
        if what == "made anew":
            assert rig.pair.take_faults() == []
            rig.wire.send(EMPTY + frame(70))
            rig.kick("rx")
            assert await_that(lambda: rig.rx.collect(), "a frame") == [(0, 82)]


WORD = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.builds(begun_word, st.integers(0, 40), st.integers(-1, MOST_ENTRIES + 1)),
)
ENTRY = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.builds(entry, st.integers(0, 40), st.integers(0, 32767), st.integers(0, 2000)),
)


@settings(max_examples=300, deadline=None)
@given(
    packed=st.booleans(),
    writes=st.booleans(),
    in_order=st.booleans(),
    offered=st.integers(0, 16),
    flushed=st.one_of(st.integers(-2, 40), WORD),
    begun=WORD,
    said=st.tuples(WORD, WORD) | st.just((0, 0)),
    entries=st.lists(ENTRY, max_size=20),
)
def test_a_journal_with_anything_in_it_changes_nothing_outside_the_ring(
    packed: bool,
    writes: bool,
    in_order: bool,
    offered: int,
    flushed: int,
    begun: int,
    said: tuple[int, int],
    entries: list[int],
) -> None:
    size = 16
    memory = GuestMemory((0, 2 * BASE))
    driver: Any = (PackedDriver if packed else Driver)(memory, size, BASE)
    for i in range(offered):
        driver.offer(driver.chain(i, [(0, 100)], write=writes))
    words = np.zeros(WORDS, np.int64)
    words[FLUSHED], words[BEGUN] = flushed, begun
    words[DEVICE_EVENT], words[DEVICE_EVENT_BEFORE] = said
    words[ENTRIES : ENTRIES + len(entries)] = entries
    before = memory.view(0, 2 * BASE).copy()
    ring = kernel_ring(driver, packed=packed, writes=writes, in_order=in_order, next_avail=0)
    at = resume(ring._replace(journal=words), kernel_memory(memory), fresh.new_net())
    assert at == -ESTALE or 0 <= at < (2 * size if packed else 1 << 16)
    changed = np.flatnonzero(before != memory.view(0, 2 * BASE))
    assert all(BASE <= place < driver.end for place in changed)
    # Nothing is given back that was not offered.
    assert len(driver.collect()) <= offered
