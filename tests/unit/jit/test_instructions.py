# SPDX-License-Identifier: Apache-2.0
"""What the data path costs, where no other load can blur it: instructions a packet.

Compiled for one and the same processor everywhere, with the memcpy that each such processor has,
the counts are equal but for what the kernel's clock takes on this machine. After a change that is
meant:

    eval $(PYTHONPATH=tests python -c 'from support.jit.compiled import *; print("export", \\
        *(f"{k}={v}" for k, v in (X86_64_V2 | PLAIN_MEMCPY).items()))')
    python -m bench.bench_instructions --json > bench/instructions.json
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkout import TOP
from support.jit.compiled import PLAIN_MEMCPY, X86_64_V2

MARGIN = 0.1


@pytest.mark.timeout(900)  # it may have to compile the kernels for x86-64-v2 first
def test_a_packet_costs_what_it_did(require: Callable[[object, str], None]) -> None:
    require(platform.machine() == "x86_64", "the counts are those of x86-64")
    done = subprocess.run(
        [sys.executable, "-m", "bench.bench_instructions", "--json"],
        cwd=TOP,
        env=os.environ | X86_64_V2 | PLAIN_MEMCPY,
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    budget = json.loads(Path(TOP, "bench", "instructions.json").read_text())
    assert {ring: row.keys() for ring, row in counts.items()} == {
        ring: row.keys() for ring, row in budget.items()
    }
    # Far below it, the budget would let the next change waste what this one saved.
    wrong = {
        (ring, work): (count, budget[ring][work])
        for ring, row in counts.items()
        for work, count in row.items()
        if abs(count - budget[ring][work]) > MARGIN * budget[ring][work]
    }
    assert not wrong
