# SPDX-License-Identifier: Apache-2.0
"""Processor time, memory and wakeups of processes, as the kernel counts them. Source: proc(5)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

GONE = (FileNotFoundError, ProcessLookupError)


def pss(pid: int) -> int:
    """Proportional set size in bytes: a page that n processes share counts 1/n for each."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu(pid: int) -> float:
    """Seconds on a processor so far, of all threads."""
    nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(*GONE):
            nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def wakeups(pids: Iterable[int]) -> int:
    """How often threads of these processes have gone to sleep, and so were woken."""
    count = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(*GONE):
                lines = (task / "status").read_text().splitlines()
                count += int(next(x for x in lines if x.startswith("voluntary_ctxt")).split()[1])
    return count
