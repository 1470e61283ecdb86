# SPDX-License-Identifier: Apache-2.0
"""Times by name: the earliest first, and only the last that was set."""

from ovs_vhost_plugin.common.timers import Timers


def test_names_come_when_their_time_has_come() -> None:
    timers = Timers()
    for name, at in (("c", 3.0), ("a", 1.0), ("b", 2.0)):
        timers.set(name, at)
    assert timers.get_timer() == 1.0
    assert timers.take_due(0.5) == []
    assert timers.take_due(2.0) == ["a", "b"]
    assert timers.take_due(2.0) == [] and timers.get_timer() == 3.0


def test_a_time_that_is_set_again_counts_once_and_as_set_last() -> None:
    timers = Timers()
    timers.set("a", 1.0)
    timers.set("a", 5.0)
    assert timers.get_timer() == 5.0 and timers.take_due(4.0) == []
    timers.set("a", 1.0)
    timers.set("a", 1.0)
    assert timers.take_due(9.0) == ["a"] and timers.take_due(9.0) == []


def test_a_time_that_is_taken_back_does_not_come() -> None:
    timers = Timers()
    timers.set("a", 1.0)
    timers.set("a", None)
    timers.set("b", None)
    assert timers.get_timer() is None and timers.take_due(9.0) == []
    timers.set("b", 2.0)
    timers.clear()
    assert timers.get_timer() is None
