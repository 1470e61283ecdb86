# SPDX-License-Identifier: Apache-2.0
"""A worker killed after any instruction of a burst: no frame twice, no descriptor lost.

The burst is single-stepped. Each state of what outlives the process (guest memory, the journal,
what went into the tap) is one in which the next worker may find the ring: it resumes there, does
the rest, and the driver counts.
"""

from __future__ import annotations

import os
import socket
from contextlib import nullcontext

import numpy as np
import pytest
from support.jit.batches import batches
from support.jit.killing import (
    CHAINS,
    HEADER,
    LENGTH,
    RING,
    SIZE,
    Case,
    new_net,
    run_receive,
    run_resume,
    run_transmit,
    states_of,
)
from support.jit.pair_rig import frame

from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.net.receive import receive
from ovs_vhost_plugin.jit.net.transmit import transmit
from ovs_vhost_plugin.jit.recovery.journal import (
    BEGUN,
    DEVICE_EVENT,
    DEVICE_EVENT_BEFORE,
    FLUSHED,
)
from ovs_vhost_plugin.jit.recovery.resume import resume
from ovs_vhost_plugin.jit.ring.offsets import EVENT_FLAGS_DISABLE


def begin(case: Case) -> layout.Vring:
    ring = case.ring()
    case.journal[FLUSHED] = case.journal[BEGUN] = case.driver.seen
    return ring


def as_found(case: Case, state: bytes) -> Case:
    """The same ring as another process finds it."""
    found = Case(case.packed, case.in_order, case.writes, case.first, case.pieces)
    found.guest.write(RING, state[:0x1000])
    found.journal[:64] = np.frombuffer(state[0x1000:], np.int64)
    return found


LAYOUTS = {"split": (False, False), "packed": (True, False), "packed-in-order": (True, True)}


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("first", [0, SIZE - 3, 2 * SIZE - 3])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_what_was_sent_is_never_sent_again(
    kind: str, first: int, pieces: int, together: bool
) -> None:
    packed, in_order = LAYOUTS[kind]
    case = Case(packed, in_order, False, first, pieces)
    reader, writer = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
    ring, net, learned = begin(case), new_net(writer), fresh.new_learned(-1)

    def run() -> None:
        run_transmit(ring, case.queue, case.memory, net, learned)

    with batches(net, writer) if together else nullcontext():
        states = states_of(case, run, reader)
    for fd in (reader, writer):
        os.close(fd)
    sent = set().union(*states.values())
    assert sent == {0, CHAINS} if together else sent == set(range(CHAINS + 1))
    for state, counts in states.items():
        check_sent(case, state, counts, under_way=CHAINS if together else 1)


def check_sent(case: Case, state: bytes, counts: set[int], under_way: int) -> None:
    found = as_found(case, state)
    net = new_net(-1)
    at = resume(found.ring(), found.memory, net)
    assert at >= 0
    back = [head for head, _ in found.driver.collect()]
    assert back == case.ids[: len(back)]
    # At most the frames that were under way are lost; what went is not sent again.
    assert all(count <= len(back) <= count + under_way for count in counts)
    reader, writer = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
    net.state["cfg_tap_fd"] = writer
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
        run_receive(ring, case.queue, case.memory, net, fresh.new_learned(-1))

    states = states_of(case, run)
    delivered = {check_received(case, state, tap, wire) for state in states}
    assert {0, 4} <= delivered
    assert delivered <= {0, 4}  # all of a burst or none of it
    tap.close()
    wire.close()


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


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("first", [0, SIZE - 3, 2 * SIZE - 3])
@pytest.mark.parametrize("unsent", [0, 1, 3])
def test_what_a_front_end_left_unsent_comes_back_once(unsent: int, first: int, pieces: int) -> None:
    """The front-end has used two chains itself; those before them are given back, and it is killed.

    As QEMU does while it has no back-end (`jit/recovery/resume.py`).
    """
    case = Case(packed=True, in_order=False, writes=False, first=first, pieces=pieces)
    begin(case)
    case.journal[DEVICE_EVENT] = case.journal[DEVICE_EVENT_BEFORE] = 2 << 16
    case.driver.put(case.driver.used + 2, EVENT_FLAGS_DISABLE)
    for i in (unsent, unsent + 1):
        case.driver.put_used(case.driver.advance(first, i * pieces), case.ids[i])
    base = case.driver.advance(first, (unsent + 2) * pieces)
    ring, net = case.ring(base), new_net(-1)

    states = states_of(case, lambda: run_resume(ring, case.memory, net))
    assert len(states) > 3 * unsent
    for state in states:
        found = as_found(case, state)
        assert resume(found.ring(base), found.memory, new_net(-1)) == base
        assert [head for head, _ in found.driver.collect()] == case.ids[: unsent + 2]
        assert found.driver.seen == base
