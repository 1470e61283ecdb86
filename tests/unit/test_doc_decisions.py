# SPDX-License-Identifier: Apache-2.0
"""docs/decisions/: each page is short, and has the same four parts."""

import re
from pathlib import Path

import pytest
from support.checkout import TOP

DIRECTORY = TOP / "docs" / "decisions"
PAGES = sorted(path for path in DIRECTORY.glob("*.md") if path.name != "README.md")


def test_they_are_numbered_without_a_gap() -> None:
    assert [int(page.name[:2]) for page in PAGES] == list(range(1, len(PAGES) + 1))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_its_four_parts_and_the_index_its_title(page: Path) -> None:
    title, *lines = page.read_text().splitlines()
    number, _, words = title.removeprefix("# ").partition(". ")
    assert int(number) == int(page.name[:2])
    assert f"| {number} | [{words}]({page.name}) |" in (DIRECTORY / "README.md").read_text()
    parts = re.findall(r"^\*\*(.+?)\.\*\* \S", "\n".join(lines), re.MULTILINE)
    assert parts == ["Context", "Decision", "Measured", "Left out"]
    assert len(lines) <= 30
