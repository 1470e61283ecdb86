# SPDX-License-Identifier: Apache-2.0
from ovs_vhost_plugin.worker.tap.expectation import SECONDS, Expectation


def test_a_guest_has_its_time_from_when_it_is_expected_however_long_nothing_happened():
    expectation = Expectation()
    assert not expectation.overdue(0.0, expecting=False)
    assert expectation.get_timer() is None
    since = 100 * SECONDS
    assert not expectation.overdue(since, expecting=True)
    assert expectation.get_timer() == since + SECONDS
    assert not expectation.overdue(since + SECONDS / 2, expecting=True)
    assert expectation.overdue(since + SECONDS, expecting=True)


def test_the_next_guest_has_as_long():
    expectation = Expectation()
    expectation.overdue(0.0, expecting=True)
    assert not expectation.overdue(1.0, expecting=False)
    assert not expectation.overdue(SECONDS, expecting=True)
    assert expectation.get_timer() == 2 * SECONDS
