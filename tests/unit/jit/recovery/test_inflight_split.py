# SPDX-License-Identifier: Apache-2.0
"""A worker is killed after any instruction: the next one goes on by what the front-end kept."""

from __future__ import annotations

import mmap
import os
import socket

import numpy as np
import pytest
from support.jit.frames import sent_in_each_state
from support.jit.inflight_reference import ENTRY, HEADER, Reference
from support.jit.kernel_views import kernel_memory, kernel_ring
from support.jit.killing import (
    BUFFERS,
    CHAINS,
    LENGTH,
    RING,
    SIZE,
    SharedMemory,
    new_net,
    run_receive,
    states_of,
)
from support.jit.killing import HEADER as NET_HEADER
from support.jit.pair_rig import frame
from support.jit.ring_reference import INDIRECT, Driver, descriptor

from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.net.receive import receive
from ovs_vhost_plugin.jit.net.transmit import transmit
from ovs_vhost_plugin.jit.recovery.journal import BEGUN, WORDS
from ovs_vhost_plugin.jit.recovery.resume import resume
from ovs_vhost_plugin.worker.recovery.inflight import track
from ovs_vhost_plugin.worker.recovery.tracking import Tracking

REGION = HEADER.size + ENTRY.size * SIZE
TABLES = BUFFERS + 0x800


class Tracked:
    """A ring with all chains offered, from index `first`, and its region."""

    def __init__(self, writes: bool, first: int, indirect: bool) -> None:
        self.form = (writes, first, indirect)
        self.writes, self.indirect = writes, indirect
        self.guest = SharedMemory((RING, 0x1000), (BUFFERS, 0x1000))
        self.region = np.frombuffer(mmap.mmap(-1, REGION), np.uint8)
        self.journal = np.frombuffer(mmap.mmap(-1, 8 * WORDS), np.int64)
        self.journal[BEGUN] = first
        self.driver = Driver(self.guest, SIZE, RING, first)
        self.memory = kernel_memory(self.guest)
        self.queue = fresh.new_queue()
        self.ids = [self._offer(i) for i in range(CHAINS)]

    def _offer(self, i: int) -> int:
        at, length, head = BUFFERS + 0x100 * i, NET_HEADER + LENGTH, 2 * i
        if not self.writes:
            self.guest.write(at, bytes(NET_HEADER) + frame(LENGTH, i))
        if self.indirect:
            flags = 2 if self.writes else 0
            table = descriptor(at, NET_HEADER, flags | 1, 1)
            table += descriptor(at + NET_HEADER, length - NET_HEADER, flags)
            self.guest.write(TABLES + 0x40 * i, table)
            self.driver.describe(head, TABLES + 0x40 * i, len(table), INDIRECT)
        else:
            self.driver.chain(head, [(at, length)], write=self.writes)
        self.driver.offer(head)
        return head

    def ring(self) -> tuple[layout.Vring, Tracking]:
        """As a worker takes it over, by the region."""
        used = self.driver.used_idx
        state = dict.fromkeys(("next_avail", "next_pop", "avail_idx"), used)
        ring = kernel_ring(
            self.driver, writes=self.writes, indirect=self.indirect, next_used=used, **state
        )
        ring = ring._replace(journal=self.journal)
        return ring, track(ring, self.region, self.memory, new_net(-1))

    def kept(self) -> list[np.ndarray]:
        """All that outlives a process."""
        return [self.guest.view(RING, 0x1000), self.region, self.journal[BEGUN : BEGUN + 1]]

    def found(self, state: bytes) -> Tracked:
        """The same ring as another process finds it."""
        other = Tracked(*self.form)
        other.guest.write(RING, state[:0x1000])
        other.region[:] = np.frombuffer(state[0x1000:-8], np.uint8)
        other.journal[BEGUN] = int.from_bytes(state[-8:], "little")
        return other


FORMS = [(first, indirect) for first in (0, SIZE - 3, 0xFFFD) for indirect in (False, True)]


@pytest.mark.parametrize(("first", "indirect"), FORMS)
def test_every_chain_is_sent_and_given_back_once(first: int, indirect: bool) -> None:
    case = Tracked(False, first, indirect)
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
    ring, tracking = found.ring()
    if journal:
        assert resume(ring, found.memory, new_net(-1)) == found.driver.used_idx
        back += [head for head, _ in found.driver.collect()]
        assert all(count <= len(back) <= count + 1 for count in sent)
        ring, tracking = found.ring()
    in_flight = Reference(found.driver, found.region).in_flight()
    assert tracking.heads == in_flight == case.ids[len(back) :][: len(in_flight)]
    reader, writer = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
    transmit(ring, found.queue, found.memory, new_net(writer), fresh.new_learned(-1))
    rest = [head for head, _ in found.driver.collect()]
    assert back + rest == case.ids
    expected = [bytes(NET_HEADER) + frame(LENGTH, head // 2) for head in rest]
    assert [os.read(reader, 4096) for _ in rest] == expected
    for fd in (reader, writer):
        os.close(fd)
    assert Reference(found.driver, found.region).in_flight() == []
    return len(back), len(in_flight)


@pytest.mark.parametrize(("first", "indirect"), FORMS)
def test_every_buffer_is_filled_and_given_back_once(first: int, indirect: bool) -> None:
    case = Tracked(True, first, indirect)
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
