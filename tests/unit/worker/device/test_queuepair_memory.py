# SPDX-License-Identifier: Apache-2.0
"""A port has 128 queue pairs, most of which no guest ever uses: they cost next to nothing."""

import re
from pathlib import Path

from ovs_vhost_plugin.worker.device.queuepair import QueuePair

PAIRS = 128
MOST = 96 << 10  # bytes; the arrays of one pair that is used are half a MiB


def own_memory() -> int:
    """Bytes that this process has to itself."""
    found = re.search(r"Private_Dirty: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    assert found is not None
    return int(found[1]) << 10


def test_a_pair_that_never_runs_takes_little_memory() -> None:
    before = own_memory()
    pairs = [QueuePair(index, tap_fd=-1) for index in range(PAIRS)]
    for pair in pairs:  # what is done with all pairs, used or not
        assert not any(pair.counters.values())
        assert pair.take_waiting() == pair.stations(0) == []
        assert [ring.miss() for ring in pair.rings] == [None, None]
        pair.forget()
    assert own_memory() - before < PAIRS * MOST
    for pair in pairs:
        pair.close()
