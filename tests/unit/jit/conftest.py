# SPDX-License-Identifier: Apache-2.0
"""Rings of the reference driver as kernels take them; queue pairs on a socket instead of a tap.

These tests run with the kernels compiled. Those of the pure kernels also run as plain Python, in
a process of its own with NUMBA_DISABLE_JIT=1 (see test_jit_plain_python.py). To run one of them
like that by hand, and see which lines it reaches:

    NUMBA_DISABLE_JIT=1 python -m pytest tests/unit/jit/test_jit_chain.py
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from ring_reference import Driver, Eventfds, GuestMemory

from ovs_vhost_plugin.jit import layout


def kernel_ring(driver: Driver, **state: int) -> layout.Vring:
    """`driver`'s ring, before the first chain, as a kernel takes it."""
    views = driver.views()
    record = np.zeros(1, layout.RING)
    defaults = {
        "size": driver.size,
        "enabled": 1,
        "next_avail": driver.next_avail,
        "next_fetch": driver.next_avail,
        "avail_idx": driver.next_avail,
        "next_used": driver.used_idx,
        "published": driver.used_idx,
        "kick_fd": -1,
        "call_fd": -1,
        "err_fd": -1,
    }
    for name, value in (defaults | state).items():
        record[name] = value
    return layout.Vring(
        desc=views["desc"].view(np.uint64),
        avail=views["avail"].view(np.uint16),
        used=views["used"].view(np.uint16),
        elements=views["used"][4 : 4 + 8 * driver.size].view(np.uint32),
        state=record,
    )


def kernel_memory(memory: GuestMemory, log_bytes: int = 0) -> layout.Memory:
    """Regions and an empty log of `log_bytes`."""
    return layout.Memory(layout.region_table(memory.table()), np.zeros(log_bytes, np.uint8))


@pytest.fixture
def net() -> Iterator[layout.Net]:
    """A Net with a fault eventfd and a 12-byte header, everything negotiated."""
    net = layout.new_net()
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    values = {"fault_fd": fd, "header_size": 12, "csum": 1, "gso_types": 0b110010, "ecn": 1}
    for name, value in values.items():
        net.state[name] = value
    yield net
    os.close(fd)
