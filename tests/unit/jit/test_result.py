# SPDX-License-Identifier: Apache-2.0
"""The one convention for what kernels return."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ovs_vhost_plugin import jit
from ovs_vhost_plugin.jit.faults import FAULTS, Fault
from ovs_vhost_plugin.jit.result import ERRNO_MAX, failure, fault_of, is_fault

SOURCES = sorted(Path(jit.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("fault", Fault)
def test_a_fault_is_below_every_errno_and_found_again(fault: Fault) -> None:
    result = failure(fault)
    assert result < -ERRNO_MAX
    assert is_fault(result)
    assert fault_of(result) == fault < FAULTS


@pytest.mark.parametrize("result", [0, 1, 1 << 62, -1, -11, -ERRNO_MAX])
def test_successes_and_errnos_are_no_faults(result: int) -> None:
    assert not is_fault(result)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_kernel_returns_a_fault_in_another_way(source: Path) -> None:
    assert not re.search(r"-Fault\.|return Fault\.|return -1$", source.read_text(), re.MULTILINE)
