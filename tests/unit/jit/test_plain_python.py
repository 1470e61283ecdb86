# SPDX-License-Identifier: Apache-2.0
"""The same tests with the kernels as plain Python: both must do the same.

It is another process because numba decides at import. There, coverage tools see the lines.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ovs_vhost_plugin.jit.kernel import JIT

HERE = Path(__file__).parent
TESTS = (
    "test_faults",
    "test_result",
    "driver/test_driver_ring",
    "ring/test_split_chain",
    "ring/test_descriptor",
    "ring/test_dirty",
    "ring/test_offsets",
    "ring/test_packed",
    "ring/test_packed_chain",
    "ring/test_position",
    "ring/test_ring",
    "ring/test_split",
    "net/test_batch",
    "net/test_finish",
    "net/test_fragment",
    "net/test_learn",
    "net/test_offload",
)


@pytest.mark.skipif(not JIT, reason="this is the process without the JIT")
def test_the_kernels_as_plain_python() -> None:
    files = [str(HERE / f"{name}.py") for name in TESTS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
