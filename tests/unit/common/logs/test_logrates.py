# SPDX-License-Identifier: Apache-2.0
"""A line that repeats itself is cut short, a word says so, and others are logged as ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.common.logs.rates import BURST, RATE, LogKind, LogRates

PLACE = "ports.py:167"


def say(rates: LogRates[str], line: str, now: float, place: str = PLACE) -> list[str]:
    return rates.take(LogKind.of(place, line), line, now)


def storm(rates: LogRates[str], lines: int, now: float, line: str = "vm0: connected") -> None:
    for _ in range(lines):
        say(rates, line, now)


def test_what_changes_seldom_is_logged() -> None:
    rates: LogRates[str] = LogRates()
    for turn in range(500):
        assert say(rates, f"vm0: {turn}", turn / RATE) == [f"vm0: {turn}"]
    assert rates.get_timer() is None


def test_a_storm_is_cut_and_the_next_line_says_how_many_are_missing() -> None:
    rates: LogRates[str] = LogRates()
    storm(rates, BURST, 100.0)
    for number in range(37):
        assert say(rates, f"vm0: front-end gone {number}", 100.0 + number / 5) == []

    assert say(rates, "vm0: connected", 112.0) == [
        "vm0: Dropped 37 log messages in last 12 seconds (most recently, 5 seconds ago) due to "
        "excessive rate; the last: front-end gone 36",
        "vm0: connected",
    ]


def test_when_it_is_quiet_again_the_last_state_is_told() -> None:
    rates: LogRates[str] = LogRates()
    storm(rates, BURST + 2, 100.0)
    say(rates, "vm0: listening", 101.0)

    at = rates.get_timer()
    assert at == pytest.approx(100.0 + 1 / RATE)
    assert list(rates.overdue(at - 1.0)) == []
    assert [line for _, line in rates.overdue(at + 1e-6)] == [
        "vm0: Dropped 3 log messages in last 10 seconds (most recently, 9 seconds ago) due to "
        "excessive rate; the last: listening"
    ]
    assert rates.get_timer() is None
    assert list(rates.overdue(at + 100.0)) == []


def test_no_port_and_no_other_line_pays_for_a_storm() -> None:
    rates: LogRates[str] = LogRates()
    storm(rates, 1000, 100.0)
    assert say(rates, "vm1: connected", 100.0) == ["vm1: connected"]
    assert say(rates, "vm0: removed", 100.0, "ports.py:316") == ["vm0: removed"]
    assert say(rates, "all is well", 100.0) == ["all is well"]


def test_a_line_without_a_subject_is_told_of_as_well() -> None:
    rates: LogRates[str] = LogRates()
    storm(rates, BURST + 1, 100.0, "no more memory")
    ((_, line),) = rates.overdue(200.0)
    assert line.startswith("Dropped 1 log messages") and line.endswith("the last: no more memory")


@given(st.lists(st.floats(0, 30), max_size=300))
def test_a_kind_has_at_most_two_lines_for_each_token(pauses: list[float]) -> None:
    """And each line is either logged or counted."""
    rates: LogRates[str] = LogRates()
    now, lines = 0.0, []
    for pause in pauses:
        now += pause
        lines += [line for _, line in rates.overdue(now)]
        lines += say(rates, "vm0: x", now)
    lines += [line for _, line in rates.overdue(now + 2 / RATE)]
    told = [line for line in lines if "Dropped" in line]
    assert len(lines) <= 2 * (BURST + RATE * now + 2)
    assert len(lines) - len(told) + sum(int(line.split()[2]) for line in told) == len(pauses)


def test_made_up_subjects_neither_fill_the_memory_nor_get_more_lines() -> None:
    most = 50
    rates: LogRates[str] = LogRates(most)
    logged = sum(len(say(rates, f"vm{number}: x", 100.0)) for number in range(5000))
    assert logged == most + BURST
    assert len(rates._buckets) == most + 1 and len(rates._dropped) == 1
    # A subject that has been quiet for long makes room.
    assert say(rates, "vm5001: x", 100.0 + BURST / RATE)[-1] == "vm5001: x"
    assert len(rates._buckets) == most + 1


def test_long_texts_of_others_are_not_kept() -> None:
    rates: LogRates[str] = LogRates()
    for number in range(1000):
        say(rates, f"{'x' * 10_000}{number}: {'y' * 10_000}", 100.0)
    ((_, line),) = rates.overdue(200.0)
    assert len(rates._buckets) == 1 and len(line) < 400


def test_a_subject_is_forgotten_only_when_nothing_was_dropped_of_it() -> None:
    rates: LogRates[str] = LogRates(1)
    storm(rates, BURST + 1, 100.0)
    for later in range(1000, 5000, 1000):
        say(rates, "vm1: x", later)
    assert any("vm0: Dropped 1 " in line for _, line in rates.overdue(5000.0))
