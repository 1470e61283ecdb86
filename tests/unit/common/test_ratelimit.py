# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.common.ratelimit import TokenBucket


def test_a_burst_and_then_the_rate():
    bucket = TokenBucket(rate=10, burst=3, now=0)
    assert [bucket.take(0) for _ in range(4)] == [True, True, True, False]
    assert bucket.ready_at(0) == pytest.approx(0.1)
    assert not bucket.take(0.05)
    assert bucket.take(0.1001)
    assert not bucket.take(0.1001)


def test_ready_at_once_while_there_are_tokens():
    bucket = TokenBucket(rate=10, burst=3, now=5)
    assert bucket.ready_at(6) == 6 and bucket.next_at() == 5


@given(st.lists(st.floats(0, 3), max_size=200))
def test_never_more_than_burst_and_rate_allow(pauses):
    bucket, now, taken = TokenBucket(rate=10, burst=3, now=0), 0.0, 0
    for pause in pauses:
        now += pause
        taken += bucket.take(now)
    assert taken <= 3 + 10 * now + 1e-6
