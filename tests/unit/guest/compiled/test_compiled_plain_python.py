# SPDX-License-Identifier: Apache-2.0
"""The compiled guest's tests with all kernels as plain Python, where coverage tools see them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ovs_vhost_plugin.jit.kernel import JIT


@pytest.mark.skipif(not JIT, reason="this is the process without the JIT")
def test_the_driver_as_plain_python() -> None:
    tests = str(Path(__file__).with_name("test_compiled_guest.py"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
