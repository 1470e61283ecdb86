# SPDX-License-Identifier: Apache-2.0
"""What `make mutants SAMPLE=` tries is drawn from all there are, and the same each time."""

import pytest

from bench.mutation_sample import sample

NAMES = [f"ovs_vhost_plugin.net.vlan.x_tag_of__mutmut_{number}" for number in range(40)]
RESULTS = ["", *(f"    {name}: not checked" for name in NAMES)]


@pytest.mark.parametrize("number", [0, 1, 10, 40])
def test_so_many_are_drawn_and_none_twice(number: int) -> None:
    drawn = sample(RESULTS, number)
    assert len(set(drawn)) == len(drawn) == number
    assert set(drawn) <= set(NAMES)


def test_a_draw_can_be_repeated_and_others_can_be_had() -> None:
    assert sample(RESULTS, 10) == sample(reversed(RESULTS), 10)
    assert sample(RESULTS, 10) != sample(RESULTS, 10, seed=2)


def test_no_more_are_drawn_than_there_are() -> None:
    assert sorted(sample(RESULTS, 1000)) == sorted(NAMES)
