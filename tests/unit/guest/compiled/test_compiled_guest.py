# SPDX-License-Identifier: Apache-2.0
"""The compiled driver against the compiled device: both ends of each ring in one process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest
from support.guest.direct_port import EVENT_IDX, MODERN, PATIENCE, DirectLab, DirectPort, numbered

from ovs_vhost_plugin.guest.compiled.guest import OFFLOADS, CompiledGuest
from ovs_vhost_plugin.guest.driver.driver import F_NEEDS_CSUM, GSO_TCPV4, NetHeader
from ovs_vhost_plugin.guest.driver.split import DeviceBrokenError
from ovs_vhost_plugin.guest.migrate import Migration
from ovs_vhost_plugin.jit.kernel import JIT

LENGTHS = (60, 1500, 4084, 4088, 9000, 65_000)
MANY = 700 if JIT else 100


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


def cross_the_switch(move: Migration, stack, here: DirectPort, there: DirectPort) -> None:
    """Frames on their way at the moment of the switch come out once, at one of the ports."""
    taken = here.pair.counters["rx_packets"] + 10
    sent = [numbered(500) for _ in range(10)]
    for frame in sent:
        stack.send(frame)
        here.wire.send(numbered(500))
    # What the port has not taken stays in its tap, where a hold would take it.
    await_that(lambda: here.pair.counters["rx_packets"] == taken)
    move.switch()
    move.log.close()
    for _ in range(10):
        stack.recv(1000)
    came = []
    here.wire.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            came.append(here.wire.recv(1000))
    while len(came) < len(sent):
        came.append(there.wire.recv(1000))
    assert came == sent


@pytest.fixture
def lab() -> Iterator[DirectLab]:
    made = DirectLab()
    yield made
    made.close()


@pytest.mark.parametrize("features", [MODERN | EVENT_IDX, MODERN], ids=["event-idx", "flags"])
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


@pytest.mark.parametrize("features", [MODERN | EVENT_IDX, MODERN], ids=["event-idx", "flags"])
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


def test_a_guest_without_work_sleeps_and_a_frame_wakes_it_once(lab: DirectLab) -> None:
    guest, stack = lab.guest()
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


def test_a_migration_under_traffic_takes_all_memory_along(lab: DirectLab) -> None:
    guest, stack = lab.guest()
    here = lab.port()
    run_on(guest, here)
    exchange(stack.wire, here.wire, 2)
    for _ in range(2):
        there = lab.port()
        move = Migration(guest, there)  # type: ignore[arg-type]
        move.begin()
        exchange(stack.wire, here.wire, 2)
        exchange(here.wire, stack.wire, 2)
        move.copy_dirty()
        exchange(stack.wire, here.wire, 1)
        cross_the_switch(move, stack.wire, here, there)
        exchange(there.wire, stack.wire, 2)
        exchange(stack.wire, there.wire, 2)
        here = there
