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
    "chain",
    "split",
    "packed",
    "packed_chain",
    "rings",
    "dirty",
    "offload",
    "fragment",
    "finish",
    "faults",
    "learn",
)


@pytest.mark.skipif(not JIT, reason="this is the process without the JIT")
def test_the_kernels_as_plain_python() -> None:
    files = [str(HERE / f"test_jit_{name}.py") for name in TESTS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
