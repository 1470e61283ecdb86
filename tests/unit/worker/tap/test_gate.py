# SPDX-License-Identifier: Apache-2.0
"""How long frames are let in for a guest that was announced and does not run yet."""

import pytest
from support.worker.device_parts import FakeHolding, FakePair, FakeTaps

from ovs_vhost_plugin.worker.tap.gate import EARLY_SECONDS, TapGate


@pytest.fixture
def gate() -> TapGate:
    return TapGate([FakePair(0)], FakeTaps(), FakeHolding())  # type: ignore[arg-type]


def test_a_guest_has_its_time_from_the_first_look_however_long_nothing_happened(gate: TapGate):
    assert not gate.overdue(0.0)
    assert gate.get_timer() is None
    since = 100 * EARLY_SECONDS
    assert gate.open_early()
    assert not gate.overdue(since)
    assert gate.get_timer() == since + EARLY_SECONDS
    assert not gate.overdue(since + EARLY_SECONDS / 2)
    assert gate.overdue(since + EARLY_SECONDS)


def test_the_next_guest_has_as_long(gate: TapGate):
    gate.open_early()
    gate.overdue(0.0)
    gate.update([True])  # the guest runs
    assert not gate.overdue(1.0)
    gate.update([False])
    assert gate.open_early()
    assert not gate.overdue(EARLY_SECONDS)
    assert gate.get_timer() == 2 * EARLY_SECONDS


def test_a_guest_has_its_time_however_long_a_queue_has_waited(gate: TapGate):
    gate.await_ring(gate.pairs[0])
    assert not gate.overdue(0.0)
    assert gate.open_early()
    since = 0.9 * EARLY_SECONDS
    assert not gate.overdue(since)
    assert not gate.overdue(EARLY_SECONDS)
    assert gate.overdue(since + EARLY_SECONDS)


def test_a_queue_has_its_time_however_long_a_guest_has_been_late(gate: TapGate):
    gate.open_early()
    assert not gate.overdue(0.0)
    gate.await_ring(gate.pairs[0])
    assert not gate.overdue(EARLY_SECONDS)
    assert gate.awaited == {0}
    gate.update([True])
    assert gate.awaited == set() and not gate.overdue(3 * EARLY_SECONDS)


def test_a_gate_that_is_open_is_not_opened_again(gate: TapGate):
    gate.update([True])
    assert not gate.open_early() and not gate.early
