# SPDX-License-Identifier: Apache-2.0
from ovs_vhost_plugin.worker.limiter import Limiter


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
    due = limiter.get_timer()
    assert due is not None and 100.49 < due < 100.51
    assert limiter.take(due) == "third"
    assert limiter.get_timer() is None


def test_nothing_pending_gives_nothing() -> None:
    limiter: Limiter[int] = Limiter(rate=1, burst=1)
    assert limiter.take(5.0) is None
    assert limiter.get_timer() is None
