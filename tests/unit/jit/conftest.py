# SPDX-License-Identifier: Apache-2.0
"""Rings of the reference driver as kernels take them; queue pairs on a socket instead of a tap.

These tests run with the kernels compiled. Those of the pure kernels also run as plain Python, in
a process of its own with NUMBA_DISABLE_JIT=1 (see test_plain_python.py). To run one of them
like that by hand, and see which lines it reaches:

    NUMBA_DISABLE_JIT=1 python -m pytest tests/unit/jit/ring/test_split_chain.py

A test with the mark `plain_python` is there in that process alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support.jit.pair_rig import PACKED, Rig

from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.kernel import JIT


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot be where kernels are compiled. It is not skipped: it runs elsewhere."""
    out = [item for item in items if JIT and item.get_closest_marker("plain_python")]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]


@pytest.fixture
def net() -> Iterator[layout.Net]:
    """A Net with a fault eventfd and a 12-byte header, everything negotiated."""
    net = fresh.new_net()
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    values = {
        "cfg_fault_fd": fd,
        "cfg_header_size": 12,
        "cfg_csum": 1,
        "cfg_gso_types": 0b111010,
        "cfg_ecn": 1,
    }
    for name, value in values.items():
        net.state[name] = value
    yield net
    os.close(fd)


@pytest.fixture(params=[0, PACKED], ids=["split", "packed"])
def both_layouts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with split rings, then with packed ones."""
    monkeypatch.setattr(Rig, "extra_features", request.param)
