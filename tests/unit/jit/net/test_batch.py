# SPDX-License-Identifier: Apache-2.0
"""Frames that go to the tap together: as they would go one by one."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from errno import EBUSY, EFAULT, EIO, ENOBUFS

import pytest
from support.jit.batches import NOT_NOW, FakeUring, batches
from support.jit.kernel_views import kernel_memory, kernel_ring
from support.jit.packed_reference import PackedDriver
from support.jit.pair_rig import EMPTY, frame
from support.jit.ring_reference import Driver, GuestMemory

from ovs_vhost_plugin.jit import fresh, layout, uring
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.net.transmit import transmit
from ovs_vhost_plugin.jit.recovery.journal import BEGUN, begun_end

RING, BUFFERS, SPACING = 0x10000, 0x100000, 0x1000
SIZE = 256
CHECKSUM = bytes([1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0])
"""A header that leaves a UDP checksum."""
LAYOUTS = {"split": (False, False), "packed": (True, False), "packed-in-order": (True, True)}


@dataclass
class Port:
    """A transmit ring of the reference driver, and a pipe of packets instead of a tap."""

    packed: bool = False
    in_order: bool = False
    header_size: int = 12

    def __post_init__(self) -> None:
        guest = GuestMemory((RING, 0x10000), (BUFFERS, SPACING * 64))
        self.driver = (PackedDriver if self.packed else Driver)(guest, SIZE, RING, 0)
        self.driver.in_order = self.in_order
        self.guest, self.next = guest, 0
        self.ring = kernel_ring(self.driver, packed=self.packed, in_order=self.in_order)
        self.queue, self.memory = fresh.new_queue(), kernel_memory(guest)
        self.net, self.learned = fresh.new_net(), fresh.new_learned(-1)
        self.net.state["cfg_header_size"] = self.header_size
        self.fault_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.net.state["cfg_fault_fd"] = self.fault_fd
        self.wire, self.tap = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
        self.net.state["cfg_tap_fd"] = self.tap

    def close(self) -> None:
        for fd in (self.wire, self.tap, self.fault_fd):
            os.close(fd)

    def offer(self, number: int, data: bytes, pieces: list[int]) -> None:
        """Offer `data` in buffers of the lengths `pieces` and one of the rest."""
        at = BUFFERS + SPACING * number
        self.guest.write(at, data)
        lengths = [*pieces, len(data) - sum(pieces)]
        begins = [at + sum(lengths[:i]) for i in range(len(lengths))]
        buffers = [(begin, n) for begin, n in zip(begins, lengths, strict=True) if n]
        self.driver.offer(self.driver.chain(self.next, buffers, write=False))
        self.next += len(buffers)

    def transmit(self) -> int:
        return transmit(self.ring, self.queue, self.memory, self.net, self.learned)

    def sent(self) -> list[bytes]:
        """The frames in the pipe, which are read."""
        frames = []
        try:
            while True:
                frames.append(os.read(self.wire, 70000))
        except BlockingIOError:
            return frames

    def counted(self, name: str) -> int:
        return int(self.net.counters[name][0])


@pytest.fixture
def port() -> Iterator[Port]:
    port = Port()
    yield port
    port.close()


def mixture() -> Iterator[tuple[bytes, list[int]]]:
    """Chains that go together, with some in between that do not."""
    for number in range(40):
        data = EMPTY + frame(60 + 30 * number, number)
        if number == 9:
            yield data, [5, 7]  # a header in two pieces
        elif number == 13:
            yield data, [12, 10, 10, 10, 10]
        elif number == 17:
            yield EMPTY + bytes(13), []  # too short for Ethernet
        elif number == 18:
            yield EMPTY, []
        elif number == 25:
            yield CHECKSUM + data[12:], [12]
        else:
            yield data, [[], [12], [12, 14], [40]][number % 4]


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_burst_is_the_same_as_frame_by_frame(kind: str) -> None:
    outcomes = []
    for together in (False, True):
        port = Port(*LAYOUTS[kind])
        fcntl.fcntl(port.tap, fcntl.F_SETPIPE_SZ, 1 << 20)
        for name in ("cfg_csum", "cfg_finish_offloads"):
            port.net.state[name] = 1
        for number, (data, pieces) in enumerate(mixture()):
            port.offer(number, data, pieces)
        if together:
            with batches(port.net, port.tap):
                assert port.transmit() == 40
        else:
            assert port.transmit() == 40
        counters = {name: port.counted(name) for name in layout.COUNTERS_DTYPE.names or ()}
        batched = counters.pop("tx_batched")
        assert batched == (9 + 6 + 14 if together else 0)
        used = port.driver.collect()
        outcomes.append((port.sent(), used, counters, port.net.faults.tolist()))
        port.close()
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0][0]) == 38


@pytest.mark.parametrize("pieces", [[], [10]])
def test_a_legacy_header_of_ten_bytes(pieces: list[int]) -> None:
    port = Port(header_size=10)
    for number in range(8):
        port.offer(number, EMPTY[:10] + frame(80, number), pieces)
    with batches(port.net, port.tap):
        assert port.transmit() == 8
    assert port.sent() == [EMPTY[:10] + frame(80, number) for number in range(8)]
    assert (port.counted("tx_batched"), port.counted("tx_bytes")) == (8, 640)
    port.close()


@pytest.mark.parametrize("kind", LAYOUTS)
def test_frames_that_a_full_tap_does_not_take_stay_in_order(kind: str) -> None:
    port = Port(*LAYOUTS[kind])
    fcntl.fcntl(port.tap, fcntl.F_SETPIPE_SZ, 16 * os.sysconf("SC_PAGE_SIZE"))
    frames = [EMPTY + frame(100, number) for number in range(40)]
    for number, data in enumerate(frames):
        port.offer(number, data, [])
    sent, back = [], []
    with batches(port.net, port.tap):
        for _ in range(3):
            port.net.state["tx_tap_full"] = 0
            back.append(port.transmit())
            assert begun_end(int(port.ring.journal[BEGUN])) == port.ring.state["next_used"][0]
            assert port.net.state["tx_tap_full"][0] == (len(back) < 3)
            sent += port.sent()
    assert back == [16, 16, 8]
    assert sent == frames
    assert len(port.driver.collect()) == 40
    port.close()


# -- what no tap does, and a kernel may -----------------------------------------------------------

GOOD = 112


@pytest.fixture
def fake(port: Port, monkeypatch: pytest.MonkeyPatch) -> FakeUring:
    fake = FakeUring(port.net)
    monkeypatch.setattr(uring, "io_uring_enter", fake.enter)
    for number in range(6):
        port.offer(number, EMPTY + frame(100, number), [])
    return fake


@pytest.mark.plain_python
@pytest.mark.parametrize("late", [(), (1,), (0, 3, 5)])
def test_each_result_is_its_frames(port: Port, fake: FakeUring, late: tuple[int, ...]) -> None:
    fake.results, fake.late = [GOOD, -EIO, GOOD, -ENOBUFS, GOOD, -EIO], late
    assert port.transmit() == 6
    counts = [port.counted(name) for name in ("tx_packets", "tx_batched", "tx_bytes")]
    assert counts == [3, 3, 300]
    assert port.counted("tx_dropped_tap_down") == 2
    assert port.counted("tx_dropped_tap_refused") == 1


@pytest.mark.plain_python
def test_a_frame_never_comes_behind_a_later_one(port: Port, fake: FakeUring) -> None:
    fake.results = [GOOD, NOT_NOW, GOOD, GOOD, NOT_NOW, NOT_NOW]
    assert port.transmit() == 4
    assert [port.counted("tx_packets"), port.counted("tx_dropped_tap_refused")] == [3, 1]
    assert port.net.state["tx_tap_full"][0] == 1
    assert begun_end(int(port.ring.journal[BEGUN])) == port.ring.state["next_used"][0] == 4
    port.net.state["cfg_batch"] = 0
    assert port.transmit() == 2
    assert port.sent() == [EMPTY + frame(100, number) for number in (4, 5)]


@pytest.mark.plain_python
@pytest.mark.parametrize(("taken", "refusal"), [(0, -EBUSY), (0, 0), (4, 0)])
def test_what_the_kernel_does_not_take_stays(
    port: Port, fake: FakeUring, taken: int, refusal: int
) -> None:
    fake.results, fake.refusal = [GOOD] * taken, refusal
    assert port.transmit() == taken
    assert port.net.state["tx_tap_full"][0] == 1
    fake.results, fake.refusal = [GOOD] * 6, 0
    if taken == 0:
        assert port.transmit() == 6
    assert port.counted("tx_dropped_tap_refused") == 0


@pytest.mark.plain_python
def test_memory_that_is_gone_breaks_the_ring_at_its_frame(port: Port, fake: FakeUring) -> None:
    fake.results = [GOOD, GOOD, -EFAULT, -EFAULT, GOOD, GOOD]
    assert port.transmit() == 2
    assert port.ring.state["fault"][0] == Fault.MEMORY_GONE
    # Those behind it have gone: they are begun, and never sent again.
    assert begun_end(int(port.ring.journal[BEGUN])) == 6
