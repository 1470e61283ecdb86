# SPDX-License-Identifier: Apache-2.0
"""Where a port sits: by which numbers, and whether another place is another one to the switch."""

from dataclasses import replace

import pytest

from ovs_vhost_plugin.net.location import Location

HERE = Location("br0", 3, "/run/br0.mgmt")


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [(3, 3, False), (3, 4, True), (1, 2, True), (2, 1, True), (0, 3, False), (3, 0, False)],
)
def test_another_number_is_another_place_once_both_are_assigned(
    before: int, after: int, moved: bool
) -> None:
    here, there = (replace(HERE, ofport=number) for number in (before, after))
    assert here.moved_to(there) is moved


def test_the_members_of_a_bond_are_tried_by_turns() -> None:
    bond = replace(HERE, members=(3, 4, 5), mates=(3, 5))
    assert bond.numbers == {3, 4, 5}
    assert [bond.member(attempt).ofport for attempt in range(4)] == [3, 5, 3, 5]
    assert [HERE.member(attempt).ofport for attempt in range(2)] == [3, 3]
