# SPDX-License-Identifier: Apache-2.0
"""The loop as a whole: frames both ways, sleep and wake, faults, stop."""

from __future__ import annotations

import os
import select
import socket
import time

import pytest
from support.jit.pair_rig import (
    ALL,
    EMPTY,
    EVENT_IDX,
    MODERN,
    MRG_RXBUF,
    PATIENCE,
    RX_BUFFERS,
    TX_BUFFERS,
    Rig,
    await_that,
    frame,
)

pytestmark = pytest.mark.usefixtures("both_layouts")


@pytest.mark.parametrize("pieces", [None, [12, 100], [1, 11, 60, 40], [5, 5, 5, 97], [20, 92]])
def test_a_frame_from_the_guest(pieces: list[int] | None) -> None:
    with Rig() as rig:
        rig.start()
        rig.transmit(EMPTY + frame(100), pieces)
        rig.kick("tx")
        assert rig.wire.recv(70000) == EMPTY + frame(100)
        rig.called("tx")
        assert rig.tx.collect() == [(0, 0)]
        counters = rig.pair.counters
        assert (counters["tx_packets"], counters["tx_bytes"]) == (1, 100)


@pytest.mark.parametrize("mergeable", [True, False])
def test_a_frame_to_the_guest(mergeable: bool) -> None:
    features = ALL if mergeable else ALL & ~MRG_RXBUF
    with Rig(features=features) as rig:
        rig.offer_buffers(4, 2000)
        rig.start()
        rig.wire.send(EMPTY + frame(1000))
        rig.called("rx")
        assert rig.received() == [EMPTY[:10] + b"\x01\x00" + frame(1000)]
        assert (rig.pair.counters["rx_packets"], rig.pair.counters["rx_bytes"]) == (1, 1000)


def test_a_legacy_header_has_ten_bytes() -> None:
    with Rig(features=0, header_size=10) as rig:
        rig.offer_buffers(1, 2000)
        rig.start()
        rig.wire.send(EMPTY[:10] + frame(100))
        rig.called("rx")
        assert rig.received() == [EMPTY[:10] + frame(100)]
        rig.transmit(EMPTY[:10] + frame(77))
        rig.kick("tx")
        assert rig.wire.recv(2000) == EMPTY[:10] + frame(77)


def test_flags_are_empty_for_a_guest_without_guest_csum() -> None:
    with Rig(features=MODERN) as rig:
        rig.offer_buffers(1, 2000)
        rig.start()
        rig.wire.send(b"\x02" + EMPTY[1:] + frame(100))
        rig.called("rx")
        assert rig.received() == [EMPTY[:10] + b"\x01\x00" + frame(100)]


def test_a_full_tap_keeps_frames_in_order() -> None:
    """The socket takes a few frames; the others wait in the ring, none is lost or doubled."""
    with Rig(size=64) as rig:
        rig.tap.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        rig.start()
        for seed in range(64):
            data = EMPTY + frame(60, seed)
            rig.memory.write(TX_BUFFERS + 100 * seed, data)
            rig.tx.chain(seed, [(TX_BUFFERS + 100 * seed, len(data))], write=False)
        rig.tx.offer(*range(64))
        rig.kick("tx")
        await_that(lambda: 0 < rig.tx.used_idx < 64)
        rig.idle()
        assert rig.tx.used_idx < 64
        got = [rig.wire.recv(2000)[12:] for _ in range(64)]
        assert got == [frame(60, seed) for seed in range(64)]
        await_that(lambda: rig.tx.used_idx == 64)


@pytest.mark.parametrize("features", [ALL, ALL & ~EVENT_IDX], ids=["event-idx", "flags"])
def test_an_idle_pair_costs_no_wakeups(features: int) -> None:
    with Rig(features=features) as rig:
        rig.offer_buffers(4, 2000)
        rig.start()
        rig.transmit(EMPTY + frame(100))
        rig.kick("tx")
        rig.wire.recv(2000)
        rig.wire.send(EMPTY + frame(100))
        rig.called("rx")
        wakeups = rig.idle()
        time.sleep(0.3)
        assert rig.pair.counters["wakeups"] == wakeups
        # and frames without receive buffers do not wake it either
        rig.wire.send(EMPTY + frame(100))
        rig.wire.send(EMPTY + frame(100))
        rig.wire.send(EMPTY + frame(100))
        wakeups = rig.idle()
        rig.wire.send(EMPTY + frame(100))
        time.sleep(0.2)
        assert rig.pair.counters["wakeups"] == wakeups


@pytest.mark.parametrize("ring", ["rx", "tx"])
def test_the_worker_is_told_of_each_kick_where_it_asks_for_that(ring: str) -> None:
    def told() -> bool:
        return bool(select.select([rig.pair.fault_fd], [], [], 0)[0])

    with Rig() as rig:
        rig.start()
        for tell in (False, True, False):
            rig.pair.tell_of_kicks(tell)
            kicks = rig.pair.counters[f"{ring}_kicks"]
            rig.kick(ring)
            await_that(lambda kicks=kicks: rig.pair.counters[f"{ring}_kicks"] > kicks)
            rig.idle()
            assert told() == tell
            assert not rig.pair.take_faults() and not told()


def test_the_worker_is_told_once_of_frames_where_it_asks_for_that() -> None:
    def told() -> bool:
        return bool(select.select([rig.pair.fault_fd], [], [], 0)[0])

    with Rig() as rig:
        rig.offer_buffers(4, 2000)
        rig.start()
        for number, tell in enumerate((False, True, False), 1):
            if tell:
                rig.pair.tell_of_frames(True)
            rig.wire.send(EMPTY + frame(100))
            await_that(lambda number=number: rig.pair.counters["rx_packets"] == number)
            rig.idle()
            assert told() == tell and not rig.pair.tells_of_frames
            assert not rig.pair.take_faults() and not told()


def test_a_driver_that_asked_for_no_calls_gets_none() -> None:
    with Rig(features=ALL & ~EVENT_IDX) as rig:
        rig.tx.set_no_interrupt(1)
        rig.start()
        rig.transmit(EMPTY + frame(100))
        rig.kick("tx")
        await_that(lambda: rig.tx.used_idx == 1)
        rig.idle()
        with pytest.raises(BlockingIOError):
            os.eventfd_read(rig.tx_fds.call)
        assert rig.pair.counters["tx_calls"] == 0


def test_a_ring_that_goes_on_calls_the_eventfd_that_it_has_now() -> None:
    """With all buffers given back, nothing would come later of which the driver could be told."""
    with Rig() as rig:
        rig.offer_buffers(2, 2000)
        rig.start()
        for seed in range(2):
            rig.wire.send(EMPTY + frame(100, seed))
        await_that(lambda: rig.pair.counters["rx_packets"] == 2)
        rig.pair.stop()
        there = os.eventfd(0, os.EFD_NONBLOCK)
        rig.start(rx=rig.vring("rx", call_fd=there, next_avail=rig.pair.rx.position))
        assert select.select([there], [], [], PATIENCE)[0]
        rig.pair.stop()
        os.close(there)
        assert len(rig.received()) == 2


def test_disabled_rings_discard_and_take_nothing() -> None:
    """vhost-user "Ring states"."""
    with Rig() as rig:
        rig.offer_buffers(4, 2000)
        rig.start(rx=rig.vring("rx", enabled=False), tx=rig.vring("tx", enabled=False))
        rig.wire.send(EMPTY + frame(100))
        rig.transmit(EMPTY + frame(100))
        rig.kick("tx")
        rig.called("tx")
        wakeups = rig.idle()
        time.sleep(0.1)
        assert rig.pair.counters["wakeups"] == wakeups
        assert rig.pair.counters["tx_dropped_disabled"] == 1
        assert (rig.rx.used_idx, rig.tx.used_idx) == (0, 1)
        rig.start()
        rig.called("rx")
        assert rig.received() == [EMPTY[:10] + b"\x01\x00" + frame(100)]


def test_stop_leaves_what_was_not_given_back_to_the_next_start() -> None:
    with Rig(first=65534) as rig:
        rig.offer_buffers(8, 2000)
        rig.start()
        for seed in range(3):
            rig.wire.send(EMPTY + frame(100, seed))
        await_that(lambda: rig.rx.used_idx == 1)
        rig.pair.stop()
        assert rig.pair.rx.position == 1
        rig.wire.send(EMPTY + frame(100, 3))
        rig.transmit(EMPTY + frame(50))
        before = rig.memory.snapshot()
        rig.kick("tx")
        time.sleep(0.05)
        assert rig.memory.snapshot() == before
        assert not rig.pair.running
        received = rig.received()
        rig.start(rx=rig.vring("rx", next_avail=rig.pair.rx.position))
        assert rig.wire.recv(2000)[12:] == frame(50)
        await_that(lambda: rig.rx.used_idx == 2)
        received += rig.received()
        assert [data[12:] for data in received] == [frame(100, seed) for seed in range(4)]


def test_a_ring_without_a_kick_fd_is_looked_at() -> None:
    with Rig() as rig:
        rig.start(tx=rig.vring("tx", kick_fd=-1))
        rig.transmit(EMPTY + frame(100))
        assert rig.wire.recv(2000) == EMPTY + frame(100)


def test_a_broken_ring_leaves_the_other_one_running() -> None:
    with Rig() as rig:
        rig.offer_buffers(4, 2000)
        rig.start()
        fault = rig.spoil("tx")
        rig.kick("tx")
        await_that(lambda: rig.pair.counters.get(f"fault_{fault.name.lower()}"))
        # It is told after it is counted.
        assert select.select([rig.tx_fds.err], [], [], PATIENCE)[0]
        assert os.eventfd_read(rig.tx_fds.err) == 1
        assert rig.pair.take_faults() == [("tx", fault)]
        assert rig.pair.take_faults() == []
        rig.wire.send(EMPTY + frame(100))
        rig.called("rx")
        assert len(rig.received()) == 1
        wakeups = rig.idle()
        rig.kick("tx")
        time.sleep(0.05)
        assert rig.pair.counters["wakeups"] == wakeups
        rig.pair.stop()
        assert rig.pair.tx.position == 0


def test_frames_offered_before_the_fault_still_leave() -> None:
    with Rig() as rig:
        rig.start()
        rig.transmit(EMPTY + frame(100))
        fault = rig.spoil("tx")
        rig.kick("tx")
        assert rig.wire.recv(2000) == EMPTY + frame(100)
        await_that(lambda: rig.pair.take_faults() == [("tx", fault)])
        assert rig.tx.collect() == [(0, 0)]


def test_a_kick_that_never_ends_does_not_hold_stop() -> None:
    with Rig() as rig:
        kick = os.eventfd(1 << 31, os.EFD_SEMAPHORE)  # each read takes one
        rig.start(tx=rig.vring("tx", kick_fd=kick))
        await_that(lambda: rig.pair.counters["tx_kicks"] > 1000)
        rig.pair.stop()
        assert not rig.pair.running
        os.close(kick)


def test_a_call_that_blocks_does_not_hold_stop() -> None:
    """The front-end fills its eventfd to the limit and makes it blocking behind our back."""
    with Rig(features=ALL & ~EVENT_IDX) as rig:
        rig.start()
        os.set_blocking(rig.tx_fds.call, True)
        os.eventfd_write(rig.tx_fds.call, 2**64 - 2)
        rig.transmit(EMPTY + frame(100))
        rig.kick("tx")
        await_that(lambda: rig.tx.used_idx == 1)
        rig.pair.stop()
        assert not rig.pair.running


def test_a_tap_that_fails_is_tried_again_without_spinning() -> None:
    with Rig() as rig:
        rig.offer_buffers(4, 2000)
        rig.start()
        rig.wire.close()  # the socket's end that is left reports a hang-up for ever
        before = rig.pair.counters["wakeups"]
        time.sleep(0.5)
        assert rig.pair.counters["wakeups"] - before < 20
        rig.pair.stop()


@pytest.mark.parametrize("mergeable", [True, False])
@pytest.mark.parametrize("event_idx", [True, False])
def test_nothing_is_written_unlogged(mergeable: bool, event_idx: bool) -> None:
    """All of memory before and after, beside the log: pages of buffers and of the used rings."""
    features = ALL & ~(0 if mergeable else MRG_RXBUF) & ~(0 if event_idx else EVENT_IDX)
    with Rig(size=64, features=features, log_bytes=0x300000 // 4096 // 8) as rig:
        assert rig.log is not None
        for round_ in range(4):
            rig.offer_buffers(12, 2000 - 300 * round_, first=12 * round_)
            before = rig.memory.snapshot()
            rig.log[:] = 0
            rig.start()
            rig.transmit(EMPTY + frame(300 + round_))
            driver_wrote = {TX_BUFFERS // 4096, rig.tx.desc // 4096, rig.tx.avail // 4096}
            rig.kick("tx")
            rig.wire.recv(2000)
            for seed in range(3):
                rig.wire.send(EMPTY + frame(900 + 100 * round_ + seed, seed))
            rig.wire.send(EMPTY + frame(6000))  # spills, or is dropped
            await_that(lambda: rig.pair.counters["rx_packets"] >= 3)
            rig.idle()
            rig.pair.stop()
            after = rig.memory.snapshot()
            changed = {
                (start + at) // 4096
                for start, old in before.items()
                for at in range(0, len(old), 4096)
                if old[at : at + 4096] != after[start][at : at + 4096]
            }
            log = int.from_bytes(rig.log.tobytes(), "little")
            logged = {page for page in range(8 * len(rig.log)) if log >> page & 1}
            assert changed - driver_wrote <= logged
            heads = range(12 * (round_ + 1))
            may = {(RX_BUFFERS + 0x8000 * head + at) // 4096 for head in heads for at in (0, 1999)}
            may |= {
                page for ring in (rig.rx, rig.tx) for page in (ring.used // 4096, ring.end // 4096)
            }
            assert logged <= may
            rig.received()
            rig.tx.collect()
        assert "fault_log_too_small" not in rig.pair.counters


def test_start_and_stop_may_be_repeated() -> None:
    with Rig() as rig:
        rig.pair.stop()
        rig.start()
        rig.start()
        assert rig.pair.running
        rig.pair.stop()
        rig.pair.stop()
        assert not rig.pair.running
