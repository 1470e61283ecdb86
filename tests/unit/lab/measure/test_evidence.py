# SPDX-License-Identifier: Apache-2.0
"""Whether a flow found the guest again, however many records a slow guest lost."""

import pytest

from ovs_vhost_plugin.lab.guests.movable import Move
from ovs_vhost_plugin.lab.measure.capture import Frame
from ovs_vhost_plugin.lab.measure.evidence import Evidence

RATE = 10_000
SENT = {number: number / RATE for number in range(2 * RATE)}


def found(arrived: list[int]) -> bool:
    """As reported of a guest that moved in the first second and got these records."""
    moved = Move(0.1, 0.2, 0.3, 0.4, 100.0, 300.0)
    evidence = Evidence(
        moved=moved,
        source="a",
        destination="b",
        mac=bytes(6),
        sent_at=SENT,
        number=lambda frame: int.from_bytes(frame.data),
        arrived=arrived,
        damaged=0,
        taps=([], [Frame(SENT[number], True, number.to_bytes(8)) for number in arrived]),
        uplinks=([], []),
        overruns=0,
        congestion=0,
        local_learned=None,
        physical_learned=None,
        announcing=[],
    )
    return evidence.report("soft", "rarp").found


@pytest.mark.parametrize("last", [2 * RATE - 1, 2 * RATE - 101, 2 * RATE - 4000])
def test_a_guest_that_lost_the_last_records_was_found(last: int) -> None:
    assert found([1, last])


@pytest.mark.parametrize("arrived", [[], [1], [1, RATE]])
def test_one_to_which_nothing_came_for_half_a_second_was_not(arrived: list[int]) -> None:
    assert not found(arrived)
