# SPDX-License-Identifier: Apache-2.0
"""Huge pages for the time of a benchmark: DPDK and shared guest memory are fastest in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
_PAGE = 2 << 20


@contextmanager
def reserved(nbytes: int) -> Iterator[bool]:
    """Try to have `nbytes` of huge pages free; yield whether they are. Added ones are removed.

    Only root can add huge pages, and not everywhere.
    """
    if not _POOL.exists():
        yield False
        return
    total = _POOL / "nr_hugepages"
    before = _number(total)
    missing = nbytes // _PAGE - _number(_POOL / "free_hugepages")
    try:
        if missing > 0:
            total.write_text(str(before + missing))
    except OSError:
        missing = 0
    try:
        yield _number(_POOL / "free_hugepages") * _PAGE >= nbytes
    finally:
        if missing > 0:
            total.write_text(str(before))


def _number(path: Path) -> int:
    return int(path.read_text())
