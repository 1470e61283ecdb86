# SPDX-License-Identifier: Apache-2.0
"""A worker of packed rings is killed after any instruction: the next goes on by what was kept."""

from __future__ import annotations

import itertools
import mmap
import os
import socket
from dataclasses import dataclass

import numpy as np
import pytest
from support.jit.frames import sent_in_each_state
from support.jit.inflight_packed_reference import ENTRY, HEADER, PackedReference
from support.jit.kernel_views import kernel_memory, kernel_ring
from support.jit.killing import (
    BUFFERS,
    CHAINS,
    LENGTH,
    RING,
    SharedMemory,
    new_net,
    run_receive,
    states_of,
)
from support.jit.killing import HEADER as NET_HEADER
from support.jit.packed_reference import PackedDriver
from support.jit.pair_rig import frame
from support.jit.ring_reference import INDIRECT

from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.net.receive import receive
from ovs_vhost_plugin.jit.net.transmit import transmit
from ovs_vhost_plugin.jit.recovery.journal import (
    BEGUN,
    ENTRIES,
    FLUSHED,
    WORDS,
    begun_word,
    entry,
)
from ovs_vhost_plugin.jit.recovery.resume import resume
from ovs_vhost_plugin.worker.recovery.inflight import track
from ovs_vhost_plugin.worker.recovery.tracking import Tracking

SIZE = 13
NUMBER = 16
"""Entries of the region: a driver may make its ring smaller."""
TABLES = BUFFERS + 0xC00


@dataclass
class Tracked:
    """A ring with all chains offered, from position `first`, and its region."""

    writes: bool
    first: int
    kind: str  # how its chains are: one descriptor, two, an indirect table; given back in order

    def __post_init__(self) -> None:
        self.guest = SharedMemory((RING, 0x1000), (BUFFERS, 0x1000))
        self.region = np.frombuffer(mmap.mmap(-1, HEADER.size + ENTRY.size * NUMBER), np.uint8)
        self.journal = np.frombuffer(mmap.mmap(-1, 8 * WORDS), np.int64)
        self.journal[BEGUN] = self.journal[FLUSHED] = self.first
        in_order = self.kind == "in order" and not self.writes
        self.driver = PackedDriver(self.guest, SIZE, RING, self.first, in_order)
        self.memory = kernel_memory(self.guest)
        self.queue = fresh.new_queue()
        self.ids = [self._offer(i) for i in range(CHAINS)]

    def _offer(self, i: int) -> int:
        at, length, head = BUFFERS + 0x100 * i, NET_HEADER + LENGTH, 2 * i
        if not self.writes:
            self.guest.write(at, bytes(NET_HEADER) + frame(LENGTH, i))
        cuts = [0, length] if self.kind == "one" else [0, NET_HEADER, length]
        pieces = [(at + a, b - a) for a, b in itertools.pairwise(cuts)]
        self.driver.chain(head, pieces, write=self.writes)
        if self.kind == "indirect":
            table = b"".join(
                address.to_bytes(8, "little") + size.to_bytes(4, "little")
                + (flags << 16).to_bytes(4, "little")
                for address, size, flags in self.driver.described[head]
            )  # fmt: skip
            self.guest.write(TABLES + 0x40 * i, table)
            self.driver.describe(head, TABLES + 0x40 * i, len(table), INDIRECT)
        self.driver.offer(head)
        return head

    def ring(self) -> tuple[layout.Vring, Tracking]:
        """As a worker takes it over whose front-end says where it once began."""
        names = ("next_avail", "next_pop", "avail_idx", "next_used", "flushed")
        ring = kernel_ring(
            self.driver,
            packed=1,
            writes=self.writes,
            indirect=self.kind == "indirect",
            in_order=self.kind == "in order",
            **dict.fromkeys(names, self.first),
        )._replace(journal=self.journal)
        return ring, track(ring, self.region, self.memory, new_net(-1))

    def kept(self) -> list[np.ndarray]:
        """All that outlives a process."""
        return [self.guest.view(RING, 0x1000), self.region, self.journal[:64]]

    def found(self, state: bytes) -> Tracked:
        """The same ring as another process finds it."""
        other = Tracked(self.writes, self.first, self.kind)
        other.guest.write(RING, state[:0x1000])
        other.region[:] = np.frombuffer(state[0x1000:-512], np.uint8)
        other.journal[:64] = np.frombuffer(state[-512:], np.int64)
        return other

    def in_flight(self) -> list[int]:
        return PackedReference(self.driver, self.region).in_flight()[1]


FORMS = [
    (first, kind)
    for first in (0, SIZE - 3, 2 * SIZE - 5)
    for kind in ("one", "two", "indirect", "in order")
]


@pytest.mark.parametrize(("first", "kind"), FORMS)
def test_every_chain_is_sent_and_given_back_once(first: int, kind: str) -> None:
    case = Tracked(False, first, kind)
    ring, tracking = case.ring()
    states = sent_in_each_state(case, ring)
    assert not tracking.heads
    seen = {check_sent(case, state, {CHAINS}) for state in states}
    assert {(0, 0), (0, CHAINS), (CHAINS, 0)} <= seen
    with_journal = {check_sent(case, state, sent, True) for state, sent in states.items()}
    assert {(back, CHAINS - back) for back in range(CHAINS + 1)} <= with_journal


def check_sent(
    case: Tracked, state: bytes, sent: set[int], journal: bool = False
) -> tuple[int, int]:
    """How many chains the driver was given at first, and how many were in flight then.

    `sent` frames had gone. A journal that is believed says so, and they do not go again.
    """
    found = case.found(state)
    back = [head for head, _ in found.driver.collect()]
    assert back in ([], case.ids)
    in_flight = found.in_flight()
    ring, tracking = found.ring()
    if journal:
        at = resume(ring, found.memory, new_net(-1))
        back += [head for head, _ in found.driver.collect()]
        assert at == found.driver.seen
        assert all(count <= len(back) <= count + 1 for count in sent)
        in_flight = found.in_flight()
        ring, tracking = found.ring()
    assert ring.state[0]["next_avail"] == found.driver.seen
    assert in_flight == case.ids[len(back) :][: len(in_flight)]
    assert len(tracking.heads) == len(in_flight)
    reader, writer = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
    transmit(ring, found.queue, found.memory, new_net(writer), fresh.new_learned(-1))
    rest = [head for head, _ in found.driver.collect()]
    assert back + rest == case.ids
    expected = [bytes(NET_HEADER) + frame(LENGTH, head // 2) for head in rest]
    assert [os.read(reader, 4096) for _ in rest] == expected
    for fd in (reader, writer):
        os.close(fd)
    assert PackedReference(found.driver, found.region).in_flight() == (found.driver.seen, [])
    return len(back), len(in_flight)


@pytest.mark.parametrize(("first", "kind"), FORMS)
def test_every_buffer_is_filled_and_given_back_once(first: int, kind: str) -> None:
    case = Tracked(True, first, kind)
    tap, wire = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    tap.setblocking(False)
    for data in (frame(40, 1), frame(170, 2), frame(60, 3)):  # of one, two and one buffers
        wire.send(bytes(NET_HEADER) + data)
    ring, _tracking = case.ring()
    net = new_net(tap.fileno())
    states = states_of(
        case, lambda: run_receive(ring, case.queue, case.memory, net, fresh.new_learned(-1))
    )
    assert {check_received(case, state, tap, wire) for state in states} == {0, 4}
    tap.close()
    wire.close()


def check_received(case: Tracked, state: bytes, tap: socket.socket, wire: socket.socket) -> int:
    found = case.found(state)
    before = found.driver.collect()
    assert [written for _, written in before] in ([], [52, 112, 70, 72])
    ring, _tracking = found.ring()
    for i in range(CHAINS):
        wire.send(bytes(NET_HEADER) + frame(60, i))
    receive(ring, found.queue, found.memory, new_net(tap.fileno()), fresh.new_learned(-1))
    after = found.driver.collect()
    assert [head for head, _ in before + after] == case.ids
    assert {written for _, written in after} == {72}
    while True:  # what there were no buffers for
        try:
            tap.recv(4096)
        except BlockingIOError:
            return len(before)


@pytest.mark.parametrize(
    ("flushed", "begun"),
    [(3, begun_word(5, 2)), (0, begun_word(3, 3)), (3, begun_word(3, 0))],
    ids=["elsewhere", "more than is in flight", "further on"],
)
def test_a_journal_of_another_place_is_not_believed(flushed: int, begun: int) -> None:
    case = Tracked(False, 0, "one")
    back_end = PackedReference(case.driver, case.region)
    back_end.begin()
    back_end.take()
    back_end.take()
    case.journal[FLUSHED], case.journal[BEGUN] = flushed, begun
    for i in range(3):
        case.journal[ENTRIES + i] = entry(i, 2 * i, 0)
    ring, tracking = case.ring()
    before = [part.tobytes() for part in case.kept()]
    assert resume(ring, case.memory, new_net(-1)) < 0
    assert [part.tobytes() for part in case.kept()] == before
    assert len(tracking.heads) == 2
