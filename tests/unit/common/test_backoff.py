# SPDX-License-Identifier: Apache-2.0
"""Pauses that double, end growing, and begin anew."""

from ovs_vhost_plugin.common.backoff import Backoff

NOW = 100.0


def test_pauses_double_to_the_longest_and_count_from_the_failure() -> None:
    backoff, delays = Backoff(0.1, 1.0), []
    assert backoff.retry_at == 0.0
    for _ in range(6):
        backoff = backoff.failed(NOW)
        assert backoff.retry_at == NOW + backoff.delay
        delays.append(backoff.delay)
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_what_worked_for_long_or_is_said_to_work_begins_anew() -> None:
    worn = Backoff(0.1, 10.0, good_after=5.0).failed(NOW).failed(NOW).failed(NOW)
    assert worn.failed(NOW, lived=4.9).delay == 0.8
    assert worn.failed(NOW, lived=5.0).delay == 0.1
    assert worn.worked() == Backoff(0.1, 10.0, good_after=5.0)
    assert worn.worked().failed(NOW).delay == 0.1
