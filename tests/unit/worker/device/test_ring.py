# SPDX-License-Identifier: Apache-2.0
"""A ring's phases, and its own words for them."""

from tempfile import TemporaryFile

import pytest
from support.jit.pair_rig import ALL, EMPTY, PACKED, Rig, await_that, frame

from ovs_vhost_plugin.ipc.spec import JOURNAL_BYTES
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.ring import iotlb
from ovs_vhost_plugin.vhost.spec import IotlbAccess
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.device.ring import NEXT, Ring, RingPhase
from ovs_vhost_plugin.worker.recovery import journal


def ring(phase: RingPhase, index: int = 0, position: int | None = None) -> Ring:
    made = Ring(index, journal.fresh())
    made.phase, made.position = phase, position
    return made


@pytest.mark.parametrize("features", [ALL, ALL | PACKED], ids=["split", "packed"])
def test_a_ring_says_its_phase_and_where_it_is(features: int) -> None:
    with Rig(features=features) as rig:
        layout = "packed" if features & PACKED else "split"
        assert repr(rig.pair.tx) == "vring 1 IDLE"
        rig.start()
        for number in range(3):
            rig.transmit(EMPTY + frame(60, number))
            rig.kick("tx")
            assert rig.wire.recv(100) == EMPTY + frame(60, number)
        rig.pair.stop()
        assert repr(rig.pair.tx) == f"vring 1 PAUSED {layout}/16 avail=3 used=3 held=0"
        assert rig.pair.tx.position == 3
        rig.pair.tx.stop()
        assert repr(rig.pair.tx) == "vring 1 IDLE"


def test_a_ring_that_broke_says_so_and_is_run_again_only_after_a_stop() -> None:
    with Rig() as rig:
        rig.start()
        fault = rig.spoil("tx")
        rig.kick("tx")
        await_that(lambda: rig.pair.take_faults() == [("tx", fault)])
        rig.pair.stop()
        assert rig.pair.tx.phase is RingPhase.BROKEN and rig.pair.rx.phase is RingPhase.PAUSED
        with pytest.raises(AssertionError, match=r"vring 1 BROKEN .* no way to RUNNING"):
            rig.start()
        rig.pair.tx.stop()
        rig.pair.prepare(rig.config())
        assert rig.pair.tx.phase is RingPhase.RUNNING


def test_each_phase_is_left_by_the_ways_that_are_written_down() -> None:
    assert NEXT.keys() == set(RingPhase)
    for phase, following in NEXT.items():
        assert phase not in following
        stopped = ring(phase, position=7)
        stopped.stop()
        assert (stopped.phase, stopped.position) == (RingPhase.IDLE, None)


@pytest.mark.parametrize(
    ("phase", "kept"),
    [
        (RingPhase.WAITING, True),
        (RingPhase.RUNNING, True),
        (RingPhase.PAUSED, True),
        (RingPhase.UNUSABLE, False),
        (RingPhase.BROKEN, False),
    ],
)
def test_the_tap_keeps_frames_for_a_ring_that_runs_or_will(phase: RingPhase, kept: bool) -> None:
    assert ring(phase, position=7).usable == kept
    assert not ring(phase).usable, "it has never run"


def test_a_set_up_with_an_error_leaves_an_idle_ring_idle_and_stalls_one_that_has_run() -> None:
    fresh, paused = ring(RingPhase.WAITING), ring(RingPhase.PAUSED, position=7)
    for each in (fresh, paused):
        each.reject()
    assert fresh.phase is RingPhase.IDLE
    assert (paused.phase, paused.position) == (RingPhase.UNUSABLE, 7)
    paused.wait()
    assert paused.phase is RingPhase.WAITING


def test_a_fault_is_taken_once_and_is_not_the_next_start_s() -> None:
    broken = ring(RingPhase.RUNNING, position=0)
    broken.state["fault"] = Fault.AVAIL_JUMPS
    assert (broken.take_fault(), broken.take_fault()) == (Fault.AVAIL_JUMPS, None)
    broken.stop()
    assert broken.take_fault() is None and broken.phase is RingPhase.IDLE


@pytest.mark.parametrize(
    ("index", "asked", "access"),
    [
        (0, iotlb.BUFFER, IotlbAccess.WRITE),
        (0, iotlb.TABLE, IotlbAccess.READ),
        (1, iotlb.BUFFER, IotlbAccess.READ),
    ],
)
def test_a_missing_translation_is_asked_for_with_the_access_it_needs(
    index: int, asked: int, access: IotlbAccess
) -> None:
    waiting = ring(RingPhase.RUNNING, index)
    assert waiting.miss() is None
    waiting.queue.state["iotlb_asked"], waiting.queue.state["iotlb_missed"] = asked, 0x1000
    assert waiting.miss() == (0x1000, access)


def test_a_quiet_stop_does_not_call_the_driver_when_its_ring_resumes() -> None:
    with Rig() as rig:
        called = []
        for quietly in (False, True, False):
            rig.start()
            rig.pair.stop(quietly=quietly)
            called.append(rig.pair.rx.call_first)
        assert called == [True, False, True]


def test_a_ring_runs_where_its_journal_has_no_room() -> None:
    with TemporaryFile() as file, Rig() as rig:
        file.truncate(2 * JOURNAL_BYTES)
        journals = journal.open_file(file.fileno(), 2)
        file.truncate(JOURNAL_BYTES)
        rig.pair.close()
        rig.pair = QueuePair(0, rig.tap.fileno(), journals=journals)
        rig.start()
        assert [ring.journal_kept for ring in rig.pair.rings] == [True, False]
        rig.transmit(EMPTY + frame(60, 1))
        rig.kick("tx")
        assert rig.wire.recv(100) == EMPTY + frame(60, 1)


@pytest.mark.parametrize(
    ("packed", "begin", "end", "filled"),
    [
        (0, 65_530, 4, 10),
        (0, 7, 7, 0),
        (0, 7, 100, 16),  # the loop gave some back between the two reads
        (1, 30, 2, 4),
        (1, 3, 19, 16),
    ],
)
def test_how_full_a_running_ring_is(packed: int, begin: int, end: int, filled: int) -> None:
    made = ring(RingPhase.RUNNING)
    made.state["size"], made.state["packed"], made.state["next_avail"] = 16, packed, begin
    made.state["next_pop" if packed else "avail_idx"] = end
    assert made.fill == (16, filled)
    made.phase = RingPhase.PAUSED
    assert made.fill == (0, 0)


def test_a_receive_ring_is_less_full_by_what_the_guest_received() -> None:
    with Rig() as rig:
        rig.offer_buffers(8, 2048)
        rig.start()
        rig.wire.send(EMPTY + frame(60))
        await_that(lambda: rig.received())
        assert rig.pair.fill["rx_ring_size"] == 16
        assert rig.pair.fill["rx_ring_filled"] == 7
