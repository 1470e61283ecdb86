# SPDX-License-Identifier: Apache-2.0
"""A worker killed after any instruction of a burst: no frame twice, no descriptor lost.

The burst is single-stepped. Each state of what outlives the process (guest memory, the journal,
what went into the tap) is one in which the next worker may find the ring: it resumes there, does
the rest, and the driver counts.
"""

from __future__ import annotations

import fcntl
import itertools
import mmap
import os
import signal
import socket
import struct
import termios
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import pytest
from kernel_views import kernel_memory, kernel_ring
from numba import types
from packed_reference import PackedDriver
from pair_rig import frame
from ring_reference import Driver, GuestMemory

from bench import singlestep
from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.net.receive import receive
from ovs_vhost_plugin.jit.net.transmit import transmit
from ovs_vhost_plugin.jit.recovery.journal import PROMISED, PUBLISHED, WORDS
from ovs_vhost_plugin.jit.recovery.resume import resume

RING, BUFFERS = 0x10000, 0x20000
SIZE, CHAINS = 16, 6
HEADER, LENGTH = 12, 100
_MARKER = int(singlestep.MARKER)
_raise = types.ExternalFunction("raise", types.int32(types.int32))
_compiled = numba.njit(nogil=True, _nrt=False)


@_compiled
def _transmit(ring, queue, memory, net, learned):  # type: ignore[no-untyped-def]
    _raise(_MARKER)
    transmit(ring, queue, memory, net, learned)
    _raise(_MARKER)


@_compiled
def _receive(ring, queue, memory, net, learned):  # type: ignore[no-untyped-def]
    _raise(_MARKER)
    receive(ring, queue, memory, net, learned)
    _raise(_MARKER)


class SharedMemory(GuestMemory):
    """Guest memory that a child's writes are seen in."""

    def __init__(self, *regions: tuple[int, int]) -> None:
        super().__init__(*regions)
        self.parts = [
            (guest, np.frombuffer(mmap.mmap(-1, len(array)), np.uint8))
            for guest, array in self.parts
        ]


@dataclass
class Case:
    """A ring with all chains offered, from position `first`."""

    packed: bool
    in_order: bool
    writes: bool
    first: int
    pieces: int  # descriptors a chain

    def __post_init__(self) -> None:
        self.guest = SharedMemory((RING, 0x1000), (BUFFERS, 0x1000))
        self.journal = np.frombuffer(mmap.mmap(-1, 8 * WORDS), np.int64)
        kind = PackedDriver if self.packed else Driver
        self.driver: Any = kind(self.guest, SIZE, RING, self.first)
        self.driver.in_order = self.in_order and not self.writes
        self.memory = kernel_memory(self.guest)
        self.queue = fresh.new_queue()
        self.ids = [self._offer(i) for i in range(CHAINS)]

    def _offer(self, i: int) -> int:
        at, length = BUFFERS + 0x200 * i, HEADER + LENGTH
        if not self.writes:
            self.guest.write(at, bytes(HEADER) + frame(LENGTH, i))
        cuts = [0, HEADER, length] if self.pieces == 2 else [0, length]
        pieces = [(at + a, b - a) for a, b in itertools.pairwise(cuts)]
        self.driver.offer(self.driver.chain(2 * i, pieces, write=self.writes))
        return 2 * i

    def ring(self, at: int | None = None) -> layout.Vring:
        """As a worker has it that goes on at `at`, or starts where its front-end says.

        That is where it began if it is packed, and at the used index if it is split.
        """
        if at is None:
            at = self.driver.seen if self.packed else self.driver.used_idx
        state = {
            "packed": self.packed,
            "in_order": self.in_order,
            "writes": self.writes,
            **dict.fromkeys(("next_avail", "next_fetch", "avail_idx", "next_used"), at),
            "published": at,
        }
        return kernel_ring(self.driver, **state)._replace(journal=self.journal)

    def state(self) -> bytes:
        """All that outlives a process."""
        return self.guest.read(RING, 0x1000) + self.journal[:64].tobytes()


def new_net(fd: int) -> layout.Net:
    net = fresh.new_net()
    for name, value in {"tap_fd": fd, "header_size": HEADER, "mergeable": 1}.items():
        net.state[name] = value
    return net


def begin(case: Case) -> layout.Vring:
    ring = case.ring()
    case.journal[PUBLISHED] = case.journal[PROMISED] = case.driver.seen
    return ring


def as_found(case: Case, state: bytes) -> Case:
    """The same ring as another process finds it."""
    found = Case(case.packed, case.in_order, case.writes, case.first, case.pieces)
    found.guest.write(RING, state[:0x1000])
    found.journal[:64] = np.frombuffer(state[0x1000:], np.int64)
    return found


def states_of(case: Case, run: Callable[[], None], tap: Callable[[], int]) -> dict[bytes, set[int]]:
    """Every state that `run` passes through, with what the tap had got in it."""
    found: dict[bytes, set[int]] = {}

    def look() -> None:
        found.setdefault(case.state(), set()).add(tap())

    singlestep.count(run, look)
    return found


@pytest.fixture(autouse=True)
def _marker_means_nothing() -> Iterator[None]:
    before = signal.signal(singlestep.MARKER, signal.SIG_IGN)
    yield
    signal.signal(singlestep.MARKER, before)


LAYOUTS = {"split": (False, False), "packed": (True, False), "packed-in-order": (True, True)}


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("first", [0, SIZE - 3, 2 * SIZE - 3])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_what_was_sent_is_never_sent_again(kind: str, first: int, pieces: int) -> None:
    packed, in_order = LAYOUTS[kind]
    case = Case(packed, in_order, False, first, pieces)
    reader, writer = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
    ring, net, learned = begin(case), new_net(writer), fresh.new_learned(-1)

    def sent() -> int:
        waiting = fcntl.ioctl(reader, termios.FIONREAD, bytes(4))
        return int(struct.unpack("i", waiting)[0]) // (HEADER + LENGTH)

    def run() -> None:
        _transmit(ring, case.queue, case.memory, net, learned)

    _compile_transmit()
    states = states_of(case, run, sent)
    for fd in (reader, writer):
        os.close(fd)
    assert {0, CHAINS} <= set().union(*states.values())
    for state, counts in states.items():
        check_sent(case, state, counts)


def _compile_transmit() -> None:
    case = Case(True, False, False, 0, 1)
    fd = os.open(os.devnull, os.O_WRONLY)
    _transmit(case.ring(), case.queue, case.memory, new_net(fd), fresh.new_learned(-1))
    os.close(fd)


def check_sent(case: Case, state: bytes, counts: set[int]) -> None:
    found = as_found(case, state)
    net = new_net(-1)
    at = resume(found.ring(), found.memory, net)
    assert at >= 0
    back = [head for head, _ in found.driver.collect()]
    assert back == case.ids[: len(back)]
    # At most the frame that was under way is lost; what went is not sent again.
    assert all(count <= len(back) <= count + 1 for count in counts)
    reader, writer = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
    net.state["tap_fd"] = writer
    transmit(found.ring(at), found.queue, found.memory, net, fresh.new_learned(-1))
    rest = [head for head, _ in found.driver.collect()]
    assert back + rest == case.ids
    expected = [bytes(HEADER) + frame(LENGTH, head // 2) for head in rest]
    assert [os.read(reader, 4096) for _ in rest] == expected
    for fd in (reader, writer):
        os.close(fd)


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("first", [0, SIZE - 3, 2 * SIZE - 3])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_buffer_is_used_once_and_each_frame_is_whole(
    kind: str, first: int, pieces: int
) -> None:
    packed, in_order = LAYOUTS[kind]
    case = Case(packed, in_order, True, first, pieces)
    tap, wire = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    tap.setblocking(False)
    frames = [frame(40, 1), frame(170, 2), frame(60, 3)]  # of one, two and one buffers
    for data in frames:
        wire.send(bytes(HEADER) + data)
    ring, net = begin(case), new_net(tap.fileno())

    def run() -> None:
        _receive(ring, case.queue, case.memory, net, fresh.new_learned(-1))

    _compile_receive()
    states = states_of(case, run, lambda: 0)
    delivered = {check_received(case, state, tap, wire) for state in states}
    assert {0, 4} <= delivered
    assert delivered <= {0, 4}  # all of a burst or none of it
    tap.close()
    wire.close()


def _compile_receive() -> None:
    case = Case(True, False, True, 0, 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as tap:
        tap.setblocking(False)
        _receive(case.ring(), case.queue, case.memory, new_net(tap.fileno()), fresh.new_learned(-1))


def check_received(case: Case, state: bytes, tap: socket.socket, wire: socket.socket) -> int:
    """The number of buffers that the driver was given before what comes afterwards."""
    found = as_found(case, state)
    net = new_net(tap.fileno())
    at = resume(found.ring(), found.memory, net)
    assert at >= 0
    before = found.driver.collect()
    assert [written for _, written in before] in ([], [52, 112, 70, 72])
    for i in range(CHAINS):
        wire.send(bytes(HEADER) + frame(60, i))
    receive(found.ring(at), found.queue, found.memory, net, fresh.new_learned(-1))
    after = found.driver.collect()
    assert [head for head, _ in before + after] == case.ids
    assert {written for _, written in after} == {72}
    while True:  # what there were no buffers for
        try:
            tap.recv(4096)
        except BlockingIOError:
            return len(before)
