# SPDX-License-Identifier: Apache-2.0
"""How much of one port is forwarded, and what is said of more."""

import pytest

from ovs_vhost_plugin.forward.allowance import (
    BATCHES,
    BYTES,
    BYTES_PER_SECOND,
    FRAMES,
    FRAMES_PER_SECOND,
    HOLDS_AT_ONCE,
    HOLDS_PER_SECOND,
    Allowance,
)


@pytest.fixture
def allowance() -> Allowance:
    return Allowance(100.0)


def test_frames_are_counted_and_come_back_with_time(allowance: Allowance) -> None:
    assert allowance.batch(FRAMES, 0, 100.0) == ""
    assert allowance.batch(1, 0, 100.0) == f"more than {FRAMES} frames"
    assert allowance.batch(FRAMES_PER_SECOND, 0, 101.0) == ""
    assert allowance.batch(1, 0, 101.0) == f"more than {FRAMES} frames"


def test_bytes_are_counted_and_come_back_with_time(allowance: Allowance) -> None:
    assert allowance.batch(1, BYTES, 100.0) == ""
    assert allowance.batch(1, 1, 100.0) == "more than 192 MiB"
    assert allowance.batch(1, BYTES_PER_SECOND, 101.0) == ""
    assert allowance.batch(1, 1, 101.0) == "more than 192 MiB"


def test_batches_are_counted_whatever_is_in_them(allowance: Allowance) -> None:
    assert {allowance.batch(1, 1, 100.0) for _ in range(BATCHES)} == {""}
    assert allowance.batch(1, 1, 100.0) == f"more than {BATCHES} batches"


def test_holds_and_looks_are_counted_apart(allowance: Allowance) -> None:
    for take in (allowance.hold, allowance.look):
        assert [take(100.0) for _ in range(HOLDS_AT_ONCE + 1)] == [True] * HOLDS_AT_ONCE + [False]
        assert take(100.0 + 1 / HOLDS_PER_SECOND)
