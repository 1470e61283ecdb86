# SPDX-License-Identifier: Apache-2.0
"""Frames of a running pair in a capture's memory: as they were, and why they were dropped.

The reader is the product's own; what it makes of nonsense is in tests/unit/capture.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator

import numpy as np
import pytest
from support.jit.batches import batches
from support.jit.pair_rig import ALL, EMPTY, MRG_RXBUF, TX_BUFFERS, Rig, await_that, frame

from ovs_vhost_plugin.capture.ring import CapturedFrame, CaptureRings
from ovs_vhost_plugin.jit.capture_ring import FRAME_MAX, PART, RECORD_HEAD, ROOM, RX, TX, Drop
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.worker.device.vringconfig import PairCapture

pytestmark = pytest.mark.usefixtures("both_layouts")

TSO = b"\x01\x01" + (54).to_bytes(2, "little") + (100).to_bytes(2, "little") + b"\x22\0\x10\0\0\0"
"""A header that asks for a checksum and segments of 100 bytes."""


class Memory:
    """A capture's memory of one pair, and its reader."""

    def __init__(self) -> None:
        fd = os.memfd_create("capture")
        os.ftruncate(fd, PART)
        self.file = mmap.mmap(fd, PART)
        self.rings = CaptureRings(mmap.mmap(fd, PART), 1)
        os.close(fd)

    def part(self, directions: int = RX | TX, snap: int = FRAME_MAX) -> PairCapture:
        return PairCapture(np.frombuffer(self.file, np.uint8), directions, snap)

    def await_frames(self, count: int) -> list[CapturedFrame]:
        found: list[CapturedFrame] = []

        def came() -> bool:
            found.extend(self.rings.take())
            return len(found) >= count

        await_that(came, f"{count} frames are captured")
        assert len(found) == count
        return found


@pytest.fixture
def memory() -> Iterator[Memory]:
    made = Memory()
    yield made
    made.rings.close()


@pytest.mark.parametrize("pieces", [None, [12, 100], [1, 11, 60, 40], [20, 92]])
def test_a_frame_from_the_guest(memory: Memory, pieces: list[int] | None) -> None:
    with Rig() as rig:
        rig.pair.capture(memory.part())
        rig.start()
        before = time.monotonic_ns()
        rig.transmit(EMPTY + frame(100), pieces)
        rig.kick("tx")
        (captured,) = memory.await_frames(1)
        assert captured == CapturedFrame(
            captured.time, 0, True, 100, EMPTY, frame(100), Drop.NONE, 0, False, 0
        )
        assert before <= captured.time <= time.monotonic_ns()


@pytest.mark.parametrize("mergeable", [True, False])
def test_a_frame_to_the_guest_has_the_header_that_it_gets(memory: Memory, mergeable: bool) -> None:
    with Rig(features=ALL if mergeable else ALL & ~MRG_RXBUF) as rig:
        rig.pair.capture(memory.part())
        rig.offer_buffers(4, 600 if mergeable else 2000)
        rig.start()
        rig.wire.send(EMPTY + frame(1000))
        (captured,) = memory.await_frames(1)
        buffers = 2 if mergeable else 1
        assert (captured.sent, captured.length, captured.data) == (False, 1000, frame(1000))
        assert captured.header == EMPTY[:10] + bytes([buffers, 0])


def test_captures_begin_and_end_beside_a_running_loop() -> None:
    with Rig() as rig:
        rig.start()

        def send(sent: int) -> None:
            rig.transmit(EMPTY + frame(64))
            rig.kick("tx")
            assert rig.wire.recv(70000) == EMPTY + frame(64)
            await_that(lambda: rig.tx.collect(), "the chain comes back")
            assert rig.pair.counters["tx_packets"] == sent

        for sent in (1, 3, 5):
            memory = Memory()
            rig.pair.capture(memory.part())
            send(sent)
            rig.pair.capture(None)
            send(sent + 1)
            memory.await_frames(1)
            memory.rings.close()


def test_frames_that_go_together_have_each_its_header(memory: Memory) -> None:
    with Rig(size=64) as rig, batches(rig.pair._net, rig.tap.fileno()):
        rig.pair.capture(memory.part())
        headers = [bytes([1, 0, 0, 0, 0, 0, 20 + number, 0, 6, 0, 0, 0]) for number in range(8)]
        for number, header in enumerate(headers):
            at = TX_BUFFERS + 0x1000 * number
            rig.memory.write(at, header + frame(100, number))
            buffers = [(at, 12), (at + 12, 100)] if number % 2 else [(at, 112)]
            rig.tx.offer(rig.tx.chain(2 * number, buffers, write=False))
        rig.start()
        rig.kick("tx")
        captured = memory.await_frames(8)
        assert [one.header for one in captured] == headers
        assert [one.data for one in captured] == [frame(100, number) for number in range(8)]
        assert rig.pair.counters["tx_batched"] >= 4
        rig.pair.stop()


def test_only_one_direction(memory: Memory) -> None:
    with Rig() as rig:
        rig.pair.capture(memory.part(RX))
        rig.offer_buffers(4, 2000)
        rig.start()
        rig.transmit(EMPTY + frame(100))
        rig.kick("tx")
        rig.called("tx")
        rig.wire.send(EMPTY + frame(200))
        (captured,) = memory.await_frames(1)
        assert (captured.sent, captured.length) == (False, 200)


def test_the_first_bytes_only(memory: Memory) -> None:
    with Rig() as rig:
        rig.pair.capture(memory.part(snap=33))
        rig.start()
        rig.transmit(EMPTY + frame(100), [30, 82])
        rig.kick("tx")
        (captured,) = memory.await_frames(1)
        assert (captured.length, captured.data) == (100, frame(100)[:33])


def test_a_faulty_frame_has_its_fault(memory: Memory) -> None:
    with Rig(features=ALL & ~1) as rig:  # without CSUM
        rig.pair.capture(memory.part())
        rig.start()
        rig.transmit(b"\x01" + EMPTY[1:] + frame(100))
        rig.kick("tx")
        (captured,) = memory.await_frames(1)
        assert (captured.drop, captured.fault) == (
            Drop.TX_DROPPED_FAULTY,
            Fault.CSUM_NOT_NEGOTIATED,
        )
        assert captured.header == b"\x01" + EMPTY[1:] and captured.data == frame(100)


def test_a_chain_without_a_frame(memory: Memory) -> None:
    with Rig() as rig:
        rig.pair.capture(memory.part())
        rig.start()
        rig.transmit(b"\x07" * 12)
        rig.kick("tx")
        (captured,) = memory.await_frames(1)
        assert captured.fault == Fault.CHAIN_WITHOUT_FRAME
        assert (captured.length, captured.header) == (0, b"\x07" * 12)


def test_a_frame_of_a_disabled_ring(memory: Memory) -> None:
    with Rig() as rig:
        rig.pair.capture(memory.part())
        rig.start(tx=rig.vring("tx", enabled=False))
        rig.transmit(EMPTY + frame(100), [5, 107])
        rig.kick("tx")
        (captured,) = memory.await_frames(1)
        assert captured.drop == Drop.TX_DROPPED_DISABLED
        assert (captured.sent, captured.header, captured.data) == (True, EMPTY, frame(100))


def test_a_frame_that_the_tap_refuses(memory: Memory) -> None:
    with Rig() as rig:
        rig.pair.capture(memory.part())
        rig.wire.close()
        rig.start()
        rig.transmit(EMPTY + frame(100))
        rig.kick("tx")
        (captured,) = memory.await_frames(1)
        assert (captured.drop, captured.data) == (Drop.TX_DROPPED_TAP_REFUSED, frame(100))


def test_a_frame_too_long_for_the_buffer(memory: Memory) -> None:
    with Rig(features=ALL & ~MRG_RXBUF) as rig:
        rig.pair.capture(memory.part())
        rig.offer_buffers(1, 600)
        rig.start()
        rig.wire.send(EMPTY + frame(1000))
        (captured,) = memory.await_frames(1)
        assert captured.drop == Drop.RX_DROPPED_TOO_LONG
        assert (captured.sent, captured.header, captured.data) == (False, EMPTY, frame(1000))


def test_a_frame_that_is_finished_here_is_one_frame(memory: Memory) -> None:
    packet = bytes(12) + b"\x08\0" + bytes.fromhex("45000154000040004006") + bytes(10)
    packet += bytes(12) + b"\x50\x10" + bytes(6) + bytes(range(256))
    with Rig(finish_offloads=True) as rig:
        rig.pair.capture(memory.part())
        rig.start()
        rig.transmit(TSO + packet)
        rig.kick("tx")
        (captured,) = memory.await_frames(1)
        assert captured.finished and captured.drop == Drop.NONE
        assert (captured.header, captured.length) == (TSO, len(packet))
        assert captured.data == packet
        assert len(rig.wire.recv(70000)) == 12 + 54 + 100


def test_what_finds_no_room_is_counted_and_the_loop_goes_on(memory: Memory) -> None:
    length = 60_000
    fits = ROOM // (RECORD_HEAD + length)
    with Rig() as rig:
        rig.pair.capture(memory.part())
        rig.start()

        def send(times: int) -> None:
            for _ in range(times):
                rig.transmit(EMPTY + frame(length))
                rig.kick("tx")
                assert len(rig.wire.recv(70000)) == 12 + length
                await_that(lambda: rig.tx.collect(), "the chain comes back")

        send(fits + 3)
        await_that(lambda: memory.rings.lost == 3, "three are lost")
        assert [one.lost for one in memory.await_frames(fits)] == [0] * fits
        # The rest of the room is too short: it is skipped, again and again.
        for lost in (3, *[0] * 40):
            send(1)
            (captured,) = memory.await_frames(1)
            assert (captured.lost, captured.data) == (lost, frame(length))


def test_a_reader_that_writes_nonsense_costs_frames_and_no_more(memory: Memory) -> None:
    with Rig() as rig:
        rig.pair.capture(memory.part())
        rig.start()
        for tail in (1 << 62, -1 << 62, ROOM + 1):
            memory.file[64:72] = tail.to_bytes(8, "little", signed=True)
            rig.memory.write(TX_BUFFERS, EMPTY + frame(100))
            rig.transmit(EMPTY + frame(100))
            rig.kick("tx")
            assert rig.wire.recv(70000) == EMPTY + frame(100)
            await_that(lambda: rig.tx.collect(), "the chain comes back")
        assert memory.rings.lost == 3
