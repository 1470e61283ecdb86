# SPDX-License-Identifier: Apache-2.0
"""DPDK's virtio-user as it can be run, each way: what goes in is compared with what comes back.

`make test` runs a covering set, which has each pair of properties, `make grid` all of the grid.
DPDK vectorizes packed rings with AVX-512: a processor without it runs what there is of the rest.
"""

import os
from pathlib import Path

import pytest
from support.system.virtio_grid import (
    AXES,
    absent,
    cells,
    covering,
    drivers,
    product_of_axes,
)
from support.system.virtio_site import check_what_testpmd_gives_back, check_what_testpmd_sends

from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost.spec import Feature

EVERY = cells()
WIDE = "avx512f" in Path("/proc/cpuinfo").read_text().split()
RUN_HERE = [cell for cell in EVERY if WIDE or not (cell.packed and cell.vectorized)]
WHOLE = os.environ.get("GRID") == "whole"
ONCE_AROUND = 1024
"""The largest ring that is filled more than once: it takes a frame a descriptor."""


def test_the_grid_is_the_whole_product_but_for_what_does_not_exist():
    every = list(product_of_axes())
    assert len(every) == len(set(every)) == 2**4 * 4 * 6 * 2
    missing = [cell for cell in every if absent(cell)]
    assert set(EVERY) == set(every) - set(missing)
    odd = [cell for cell in missing if "power of two" in absent(cell)]
    assert len(odd) == 2**3 * 4 * 2
    # Of the others it is always the vectorized one of two, so no ring is left out.
    assert all(cell.vectorized for cell in missing if cell not in odd)


def test_the_covering_set_has_each_pair_of_properties_and_is_small():
    chosen = covering(EVERY)
    assert len(chosen) < 30
    for first in AXES:
        for second in AXES:
            had = {(getattr(cell, first), getattr(cell, second)) for cell in chosen}
            assert had == {(getattr(cell, first), getattr(cell, second)) for cell in EVERY}
    assert {drivers(cell) for cell in chosen} == {drivers(cell) for cell in EVERY}


@pytest.mark.system
@pytest.mark.parametrize("cell", RUN_HERE if WHOLE else covering(RUN_HERE), ids=str)
def test_frames_pass_whole_both_ways(cell, peer, plug):
    made = plug(cell.mode, cell.config())
    user = made.user
    assert (user.drivers("Rx"), user.drivers("Tx")) == tuple({name} for name in drivers(cell))
    vrings = str(2 * cell.queues)  # it runs as soon as one of them does
    wait_until(lambda: made.told()["num-of-vrings"] == vrings, "all vrings")
    told = made.told()
    assert {told[f"vring-{n}-size"] for n in range(2 * cell.queues)} == {str(cell.size)}
    features = int(told["features"], 16)
    for bit, wanted in (
        (Feature.RING_PACKED, cell.packed),
        (Feature.IN_ORDER, cell.in_order),
        (Feature.MRG_RXBUF, cell.mergeable),
        (Feature.MQ, cell.queues > 1),
    ):
        assert bool(features & bit.mask) == wanted, bit.name
    check_what_testpmd_sends(made, peer)
    around = cell.queues == 1 and cell.size <= ONCE_AROUND
    check_what_testpmd_gives_back(made, peer, cell.size + 100 if around else 200)
    answer = made.stats()
    assert answer["errors"] == {}
    for pair in answer["queue_pairs"]:
        assert pair["rx_packets"] > 10
        assert pair["tx_packets"] > 10
