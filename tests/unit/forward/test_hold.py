# SPDX-License-Identifier: Apache-2.0
"""One port's hold: when the worker is asked for frames, for whom, and what is kept of it."""

import pytest

from ovs_vhost_plugin.forward.allowance import SECONDS
from ovs_vhost_plugin.forward.hold import PAUSE, PortHold, Record
from ovs_vhost_plugin.forward.rewrite import Rows, Unfit
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station, StationKey

GUEST, NESTED = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
KEY, NESTED_KEY = StationKey(GUEST, 0), StationKey(NESTED, 0)
OWN = bytes.fromhex("0a0000000009")
PLACE = Location("br0", 3, "/run/br0.mgmt")
ROWS = Rows((Station(GUEST), Station(NESTED)), own=OWN)
NOW = 100.0


def line(port: int, mac: bytes = GUEST) -> str:
    return f"{port:>5}     0  {mac.hex(':')}    0\n"


def frame(mac: bytes = GUEST) -> bytes:
    return mac + b"\2" * 6 + b"\x08\x00" + bytes(46)


@pytest.fixture
def hold() -> PortHold:
    """A hold of a guest that the bridge has elsewhere by now."""
    hold = PortHold(NOW)
    hold.begin(7)
    hold.tracker.hold((KEY, NESTED_KEY), NOW)
    assert hold.table(line(1), PLACE, ROWS, NOW)
    return hold


def test_nothing_is_asked_for_before_a_station_is_elsewhere() -> None:
    hold = PortHold(NOW)
    assert hold.lasts_until is None and hold.get_timer(idle=True) is None
    hold.begin(7)
    hold.tracker.hold((KEY,), NOW)
    assert not hold.table(line(3), PLACE, ROWS, NOW)
    assert hold.next_release(NOW, idle=True) == frozenset()
    assert hold.get_timer(idle=True) == hold.lasts_until == NOW + SECONDS


def test_a_batch_is_asked_for_once_the_bridge_has_taken_the_one_before(hold: PortHold) -> None:
    assert hold.next_release(NOW, idle=False) == frozenset()
    assert hold.get_timer(idle=False) == NOW + SECONDS
    assert hold.get_timer(idle=True) == NOW
    assert hold.next_release(NOW, idle=True) == {KEY}
    hold.released(1, frozenset({KEY}))
    assert hold.next_release(NOW, idle=True) == frozenset(), "that was asked for"
    assert hold.asked_for(1) and not hold.asked_for(2)
    hold.answered(1, NOW, left=True)
    assert not hold.asked_for(1)
    assert hold.take([frame()], PLACE, {}, ROWS) == {}
    assert hold.next_release(NOW, idle=True) == frozenset(), "its frames are still here"
    assert hold.queue == [(GUEST + OWN + frame()[12:], 1)]
    hold.queue = []
    assert hold.next_release(NOW, idle=True) == {KEY}


def test_stragglers_are_waited_for_a_little(hold: PortHold) -> None:
    hold.released(1, frozenset({KEY}))
    hold.answered(1, NOW, left=False)
    assert hold.next_release(NOW, idle=True) == frozenset()
    assert hold.get_timer(idle=True) == NOW + PAUSE
    assert hold.next_release(NOW + PAUSE, idle=True) == {KEY}


def test_a_station_that_is_found_later_is_asked_for_at_once(hold: PortHold) -> None:
    hold.released(1, frozenset({KEY}))
    hold.answered(1, NOW, left=False)
    hold.released(2, frozenset({KEY}))
    assert hold.table(line(1) + line(1, NESTED), PLACE, ROWS, NOW)
    assert hold.next_release(NOW, idle=True) == {KEY, NESTED_KEY}


def test_an_answer_is_the_last_word_on_requests_before_it(hold: PortHold) -> None:
    for request in (1, 2, 3):
        hold.released(request, frozenset({KEY}))
    hold.answered(2, NOW, left=True)
    assert [hold.asked_for(request) for request in (1, 2, 3)] == [False, False, True]


def test_frames_that_may_not_go_on_are_counted_by_reason(hold: PortHold) -> None:
    refused = hold.take([frame(b"\x02" * 6), frame(), b""], PLACE, {}, ROWS)
    assert refused == {Unfit.TO_STRANGER.value: 1, Unfit.MALFORMED.value: 1}
    assert len(hold.queue) == 1
    hold.take([b""], PLACE, {}, ROWS)
    record = hold.record("vhu0", {"held": 4}, NOW + 2, "more than 9")
    assert record == Record(
        "vhu0",
        NOW,
        NOW + 2,
        {"held": 4},
        {KEY.encode(): 1},
        {Unfit.TO_STRANGER.value: 1, Unfit.MALFORMED.value: 2},
        "more than 9",
    )


@pytest.mark.parametrize(
    ("counts", "places", "refused", "over", "line"),
    [
        ({}, 0, {}, "", "no frames"),
        ({"held": 3, "dropped_full": 1}, 0, {}, "", "1 dropped full, 3 held"),
        ({"held": 3}, 2, {"to-stranger": 2}, "", "3 held, 2 refused to-stranger{places}"),
        ({}, 5, {}, "more than 9 frames", "no frames{places}; hold-over-limit: more than 9 frames"),
    ],
)
def test_a_hold_is_one_line_of_the_log_with_a_few_of_its_places(
    counts: dict[str, int], places: int, refused: dict[str, int], over: str, line: str
) -> None:
    told = {f"station {n}": n for n in range(places)}
    record = Record("vhu0", 10.0, 11.5, counts, told, refused, over)
    shown = "".join(f"; station {n} on port {n}" for n in range(min(places, 4)))
    assert record.summary() == "held for 1.50 s: " + line.format(places=shown)


def test_of_a_hold_that_was_ended_only_its_number_is_kept() -> None:
    ended = PortHold.over(7, NOW)
    assert (ended.number, ended.active, ended.lasts_until) == (7, False, None)
    assert ended.tracker.get_timer() is None and ended.get_timer(idle=True) is None
    assert not ended.asked_for(0)
