# SPDX-License-Identifier: Apache-2.0
"""The compiled driver against the compiled device: both ends of each ring in one process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest
from support.guest.direct_port import (
    EVENT_IDX,
    MODERN,
    PACKED,
    PATIENCE,
    DirectLab,
    DirectPort,
    numbered,
)

from ovs_vhost_plugin.guest.compiled.guest import OFFLOADS, CompiledGuest
from ovs_vhost_plugin.guest.driver.driver import F_NEEDS_CSUM, GSO_TCPV4, NetHeader
from ovs_vhost_plugin.guest.driver.split import DeviceBrokenError
from ovs_vhost_plugin.guest.frontend.frontend import NotOfferedError
from ovs_vhost_plugin.guest.migrate import Migration
from ovs_vhost_plugin.jit.kernel import JIT
from ovs_vhost_plugin.vhost.spec import Feature

LENGTHS = (60, 1500, 4084, 4088, 9000, 65_000)
MANY = 700 if JIT else 100
ALL_FEATURES = pytest.mark.parametrize(
    "features",
    [MODERN | EVENT_IDX, MODERN, MODERN | PACKED | EVENT_IDX, MODERN | PACKED],
    ids=["event-idx", "flags", "packed-event-idx", "packed-flags"],
)


def await_that(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def run_on(guest: CompiledGuest, port: DirectPort) -> None:
    guest.run_on(port, [vring.queue.base for vring in guest.vrings])  # type: ignore[arg-type]


def exchange(there, here, frames: int) -> None:
    """Each frame that goes in at one end comes out at the other, whole and in order."""
    for _ in range(frames):
        for length in LENGTHS:
            frame = numbered(length)
            there.send(frame)
            assert here.recv(70_000)[12:] == frame[12:]


def exchange_all(there, here, frames: int) -> None:
    for one, other in zip(there, here, strict=True):
        exchange(one, other, frames)


def cross_the_switch(move: Migration, stacks, here: DirectPort, there: DirectPort) -> None:
    """Frames on their way at the moment of the switch come out once, at one of the ports."""
    counters = [mine.pair.counters for mine in here.pairs]
    taken = [counts["rx_packets"] + 10 for counts in counters]
    sent = [[numbered(500) for _ in range(10)] for _ in stacks]
    for stack, wire, frames in zip(stacks, here.wires, sent, strict=True):
        for frame in frames:
            stack.send(frame)
            wire.send(numbered(500))
    # What the port has not taken stays in its tap, where a hold would take it.
    await_that(lambda: [mine.pair.counters["rx_packets"] for mine in here.pairs] == taken)
    move.switch()
    move.log.close()
    for stack, old, new, frames in zip(stacks, here.wires, there.wires, sent, strict=True):
        for _ in range(10):
            stack.recv(1000)
        came = []
        old.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                came.append(old.recv(1000))
        while len(came) < len(frames):
            came.append(new.recv(1000))
        assert came == frames


@pytest.fixture
def lab() -> Iterator[DirectLab]:
    made = DirectLab()
    yield made
    made.close()


@ALL_FEATURES
@pytest.mark.parametrize("first", [0, 65530])
def test_frames_pass_both_ways(lab: DirectLab, features: int, first: int) -> None:
    guest, stack = lab.guest(features=features, first=first)
    port = lab.port()
    run_on(guest, port)
    exchange(stack.wire, port.wire, 20)
    exchange(port.wire, stack.wire, 20)
    frames = 20 * len(LENGTHS)  # which are counted after they have passed
    await_that(lambda: guest.counters["rx_packets"] == guest.counters["tx_packets"] == frames)
    assert guest.counters["rx_refused"] == 0 and stack.features == features


def test_a_header_says_which_frames_are_large(lab: DirectLab) -> None:
    guest, stack = lab.guest(features=MODERN | EVENT_IDX | OFFLOADS)
    port = lab.port()
    run_on(guest, port)
    header = NetHeader(F_NEEDS_CSUM, GSO_TCPV4, 54, 100, 34, 16).pack(12)
    large = header + numbered(3000)[12:]
    for end, other in ((stack.wire, port.wire), (port.wire, stack.wire)):
        end.send(large)
        other.recv(70_000)
    await_that(lambda: guest.counters["rx_gso"] == guest.counters["tx_gso"] == 1)


@ALL_FEATURES
def test_more_frames_than_the_ring_holds_wait_for_the_device(lab: DirectLab, features: int) -> None:
    guest, stack = lab.guest(size=16, features=features)
    port = lab.port()
    run_on(guest, port)
    frames = [numbered(200) for _ in range(MANY)]
    port.wire.setblocking(False)
    came: list[bytes] = []
    for frame in frames:
        stack.wire.send(frame)
        while True:
            try:
                came.append(port.wire.recv(1000))
            except BlockingIOError:
                break
    port.wire.settimeout(PATIENCE)
    while len(came) < len(frames):
        came.append(port.wire.recv(1000))
    assert came == frames


@pytest.mark.parametrize("layout", [0, PACKED], ids=["split", "packed"])
def test_a_guest_without_work_sleeps_and_a_frame_wakes_it_once(lab: DirectLab, layout: int) -> None:
    guest, stack = lab.guest(features=MODERN | EVENT_IDX | layout)
    port = lab.port()
    run_on(guest, port)
    exchange(stack.wire, port.wire, 1)
    exchange(port.wire, stack.wire, 1)
    # What was set off by these frames has ended when a frame costs each side one wakeup.
    for _ in range(3):
        before = guest.counters["wakeups"], port.pair.counters["wakeups"]
        exchange(port.wire, stack.wire, 1)
        spent = guest.counters["wakeups"] - before[0], port.pair.counters["wakeups"] - before[1]
        assert max(spent) <= 2 * len(LENGTHS)


def test_a_device_that_uses_what_was_not_offered_ends_the_guest(lab: DirectLab) -> None:
    guest, _ = lab.guest()
    run_on(guest, lab.port())
    guest.check()
    queue = guest.vrings[0].queue
    used = guest.memory.view(queue.used_address, 12)
    used[4:12] = (999).to_bytes(4, "little") + (60).to_bytes(4, "little")
    used[2:4] = (1).to_bytes(2, "little")
    guest.vrings[0].call.signal()
    await_that(lambda: not guest.running)
    with pytest.raises(DeviceBrokenError):
        guest.check()


@pytest.mark.parametrize(
    ("layout", "queue_pairs"), [(0, 1), (PACKED, 1), (0, 2)], ids=["split", "packed", "two-pairs"]
)
def test_a_migration_under_traffic_takes_all_memory_along(
    lab: DirectLab, layout: int, queue_pairs: int
) -> None:
    guest, stack = lab.guest(features=MODERN | EVENT_IDX | layout, queue_pairs=queue_pairs)
    here = lab.port(queue_pairs)
    run_on(guest, here)
    exchange_all(stack.wires, here.wires, 2)
    for _ in range(2):
        there = lab.port(queue_pairs)
        move = Migration(guest, there)  # type: ignore[arg-type]
        move.begin()
        exchange_all(stack.wires, here.wires, 2)
        exchange_all(here.wires, stack.wires, 2)
        move.copy_dirty()
        exchange_all(stack.wires, here.wires, 1)
        cross_the_switch(move, stack.wires, here, there)
        exchange_all(there.wires, stack.wires, 2)
        exchange_all(stack.wires, there.wires, 2)
        here = there


@pytest.mark.parametrize("layout", [0, PACKED], ids=["split", "packed"])
def test_a_back_end_that_follows_one_that_was_lost_goes_on(lab: DirectLab, layout: int) -> None:
    guest, stack = lab.guest(features=MODERN | EVENT_IDX | layout)
    for _ in range(3):
        port = lab.port()
        run_on(guest, port)
        exchange(stack.wire, port.wire, 3)
        exchange(port.wire, stack.wire, 3)
        port.pair.stop()
        for pair in guest.pairs:
            pair.halt()


def test_each_queue_pair_has_its_own_frames(lab: DirectLab) -> None:
    guest, stack = lab.guest(queue_pairs=2)
    port = lab.port(2)
    run_on(guest, port)
    exchange(stack.wires[1], port.wires[1], 2)
    exchange(port.wires[1], stack.wires[1], 2)
    frames = 2 * len(LENGTHS)
    await_that(lambda: guest.counters["rx_packets"] == guest.counters["tx_packets"] == frames)
    assert guest.pairs[0].counters["rx_packets"] == guest.pairs[0].counters["tx_packets"] == 0
    assert guest.features & Feature.MQ.mask and guest.features & Feature.CTRL_VQ.mask


def test_a_back_end_with_fewer_queue_pairs_is_not_run_on(lab: DirectLab) -> None:
    guest, _ = lab.guest(queue_pairs=2)
    with pytest.raises(NotOfferedError):
        run_on(guest, lab.port(1))
