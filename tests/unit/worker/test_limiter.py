# SPDX-License-Identifier: Apache-2.0
from ovs_vhost_plugin.worker.limiter import Changes, Limiter


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    limiter: Limiter[int] = Limiter(rate=2, burst=3)
    passed = []
    for value in range(10):
        limiter.offer(value)
        passed.append(limiter.take(100.0))
    assert passed == [0, 1, 2] + [None] * 7


def test_the_latest_value_is_not_lost_but_due() -> None:
    limiter: Limiter[str] = Limiter(rate=2, burst=1)
    limiter.offer("first")
    assert limiter.take(100.0) == "first"
    limiter.offer("second")
    limiter.offer("third")
    assert limiter.take(100.1) is None
    due = limiter.due(100.1)
    assert due is not None and 0.39 < due < 0.41
    assert limiter.take(100.1 + due) == "third"
    assert limiter.due(101.0) is None


def test_nothing_pending_gives_nothing() -> None:
    limiter: Limiter[int] = Limiter(rate=1, burst=1)
    assert limiter.take(5.0) is None
    assert limiter.due(5.0) is None


def test_a_change_that_is_taken_back_while_it_is_held_back_is_not_told() -> None:
    """It would be told as what is, after what ended it."""
    told: list[str] = []
    changes = Changes(rate=2, burst=2, nothing="", send=lambda value: told.append(value) or True)
    for value in ("running", "connected", "running", "connected"):
        changes.tell(value, 100.0)
    assert told == ["running", "connected"]
    changes.tell("running", 100.1)
    assert changes.due(100.1) is not None
    changes.tell("connected", 100.2)
    assert changes.due(100.2) is None
    changes.tell("connected", 200.0)
    assert told == ["running", "connected"]


def test_what_could_not_be_told_is_told_again_and_everything_to_who_comes_next() -> None:
    told: list[str] = []
    there = [False, True]
    changes = Changes(1, 9, "", lambda value: there.pop(0) and not told.append(value))
    changes.tell("running", 100.0)
    changes.tell("running", 100.0)
    changes.tell("running", 100.0)
    assert told == ["running"] and not there
    changes.forget()
    there = [True]
    changes.tell("", 100.0)
    changes.tell("running", 100.0)
    assert told == ["running", "running"]
