# SPDX-License-Identifier: Apache-2.0
"""Times are counted in the bucket that they fit in."""

from ovs_vhost_plugin.metrics.histogram import SECONDS, Histogram


def test_a_time_counts_in_the_first_bucket_that_has_room_for_it() -> None:
    histogram = Histogram()
    for seconds in (0.0, 0.001, 0.0011, 10.0, 10.1, 1e9):
        histogram.observe(seconds)
    told = histogram.as_dict()
    assert told["counts"]["0.001"] == 2 and told["counts"]["0.0025"] == 1
    assert told["counts"]["10.0"] == 1 and told["counts"]["+Inf"] == 2
    assert sum(told["counts"].values()) == 6 and told["sum"] == 1e9 + 20.1021


def test_bounds_are_in_order() -> None:
    assert list(SECONDS) == sorted(set(SECONDS))
