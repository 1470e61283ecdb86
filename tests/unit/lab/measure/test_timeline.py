# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.lab.measure.timeline import Mark, Report, deliveries, longest_gap, overtaken


def report(*marks: Mark) -> Report:
    return Report(
        guest="qemu",
        announce="rarp",
        stopped=100.0,
        resumed=100.007,
        marks=marks,
        sent=10,
        lost=2,
        damaged=0,
        duplicated=1,
        reordered=4,
        unseen=1,
        outage_ms=12.3456789,
        delay_ms=15.0004,
        downtime_ms=4.0,
        found=True,
    )


def test_rows_are_in_order_and_count_from_the_stop():
    rows = report(Mark(100.25, "learned", "b"), Mark(99.5, "starts", "a")).rows()
    assert [(row.milliseconds, row.what, row.where) for row in rows] == [
        (-500.0, "starts", "a"),
        (250.0, "learned", "b"),
    ]


def test_json_has_all_that_the_table_has():
    data = json.loads(json.dumps(report(Mark(100.001, "learned", "b")).as_dict()))
    assert data["timeline"] == [{"ms": 1.0, "event": "learned", "where": "b"}]
    packets = {"sent": 10, "lost": 2, "damaged": 0, "duplicated": 1, "reordered": 4}
    assert data["packets"] == {**packets, "unseen": 1, "overrun": 0, "congested": 0}
    assert data["learned_ms"] is None
    assert data["delay_ms"] == 15.0
    assert data["resume_ms"] == 3.0
    assert (data["outage_ms"], data["downtime_ms"], data["found"]) == (12.346, 4.0, True)
    assert (data["guest"], data["announce"]) == ("qemu", "rarp")


def test_a_record_is_delivered_where_the_guest_was():
    times = deliveries(
        arrived=[1, 2, 3, 4],
        # 2 passed the source's tap when the guest had stopped there: it came by the destination.
        source={1: 10.0, 2: 20.5},
        destination={1: 10.1, 2: 20.6, 3: 20.7, 4: 21.5},
        stopped=20.0,
        resumed=21.0,
    )
    assert times == {1: 10.0, 2: 21.0, 3: 21.0, 4: 21.5}


def test_a_record_that_passed_no_tap_is_no_delivery():
    assert deliveries([7], {}, {}, stopped=1.0, resumed=2.0) == {}


def test_a_record_that_did_not_arrive_is_no_delivery():
    assert deliveries([], {1: 0.5}, {2: 2.5}, stopped=1.0, resumed=2.0) == {}


@pytest.mark.parametrize("pause", [0.1, 0.3])
def test_the_rate_is_back_when_as_much_comes_as_before(pause):
    before = [99.0 + n / 100 for n in range(100)]
    after = [100.0 + pause + n / 100 for n in range(100)]
    received = replace(report(), received=(*before, 100.05, *after))
    assert received.recovery_ms() == pytest.approx(1e3 * pause - 4.0)


def test_a_trickle_is_no_recovery():
    received = [99.0 + n / 100 for n in range(100)] + [100.5 + n / 10 for n in range(30)]
    assert replace(report(), received=tuple(received)).recovery_ms() is None


def test_what_comes_after_a_later_one_was_overtaken():
    assert overtaken([0, 1, 2]) == 0
    assert overtaken([0, 4, 1, 2, 5, 3]) == 3


@given(st.lists(st.floats(0, 1e6), max_size=20))
def test_no_gap_is_longer_than_the_longest(times):
    times.sort()
    gap = longest_gap(times)
    pairs = list(pairwise(times))
    assert all(later - at <= gap for at, later in pairs)
    assert gap in [later - at for at, later in pairs] or (gap == 0 and not pairs)
