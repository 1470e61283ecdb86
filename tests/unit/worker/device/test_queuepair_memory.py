# SPDX-License-Identifier: Apache-2.0
"""What a port has and its guest never uses takes next to no memory."""

import re
import selectors
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from support.worker.fake_outbox import FakeOutbox

from ovs_vhost_plugin.ipc.spec import PortSettings
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.tap.holding import Holding
from ovs_vhost_plugin.worker.tap.queues import LONGEST_FRAME

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


def test_a_port_that_never_holds_frames_has_no_room_for_them() -> None:
    with selectors.DefaultSelector() as selector:
        parts: Any = (SimpleNamespace(fds=[]), selector, FakeOutbox(), lambda: 0.0)
        before = own_memory()
        holdings = [Holding(*parts, PortSettings(hold=True)) for _ in range(PAIRS)]
        assert own_memory() - before < len(holdings) * LONGEST_FRAME // 2
