# SPDX-License-Identifier: Apache-2.0
"""A clock that is set, or jumps, changes nothing: what runs for guests reads no wall clock."""

import ast

import pytest
from support.checkout import TOP

PRODUCT = TOP / "ovs_vhost_plugin"
OTHERS = {"lab", "watch.py", "top", "capture"}  # what runs for people alone
MODULES = [
    path for path in PRODUCT.rglob("*.py") if OTHERS.isdisjoint(path.relative_to(PRODUCT).parts)
]
WALL_CLOCK = {
    ("time", "time"),
    ("time", "time_ns"),
    ("time", "CLOCK_REALTIME"),
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("datetime", "today"),
}


def wall_clock_reads(source: str) -> list[tuple[str, str]]:
    """Each look at the wall clock, as (module or class, attribute)."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.append((node.value.id, node.attr))
        elif isinstance(node, ast.ImportFrom):
            found += [(str(node.module), name.name) for name in node.names]
    return [read for read in found if read in WALL_CLOCK]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PRODUCT)))
def test_no_module_reads_the_wall_clock(path):
    assert wall_clock_reads(path.read_text()) == []


def test_a_read_is_found():
    source = "import time\nfrom datetime import datetime\nprint(time.time(), datetime.now())"
    assert wall_clock_reads(source) == [("time", "time"), ("datetime", "now")]
