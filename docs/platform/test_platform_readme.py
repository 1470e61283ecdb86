# SPDX-License-Identifier: Apache-2.0
"""The README has each platform test once, and what relies on it is there."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
PRODUCT = HERE.parents[1] / "ovs_vhost_plugin"
ROWS = [
    line.strip("|").split(" | ")
    for line in (HERE / "README.md").read_text().splitlines()
    if line.startswith("| ") and "`test_" in line
]


def defined() -> list[str]:
    """The names of all tests here but this file's."""
    return [
        node.name
        for path in HERE.glob("test_*.py")
        if path != Path(__file__)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


def test_each_platform_test_is_in_the_readme_once() -> None:
    assert sorted(row[2].strip("` ") for row in ROWS) == sorted(defined())


def test_what_relies_on_a_behaviour_is_there() -> None:
    for _, relies, name in ROWS:
        modules = re.findall(r"`([a-z_/]+\.py)`", relies)
        pages = re.findall(r"\(\.\./([a-z-]+\.md)\)", relies)
        assert modules or pages, f"{name}: nothing relies on it"
        absent = [path for path in modules if not (PRODUCT / path).is_file()]
        absent += [page for page in pages if not (HERE.parent / page).is_file()]
        assert not absent, name
