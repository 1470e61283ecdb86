# SPDX-License-Identifier: Apache-2.0
"""What git keeps is what a person wrote and can read: no compiled code, no cache, no archive."""

import collections
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]

BINARY: frozenset[str] = frozenset()
"""Tracked files that are no text, each with its reason in a comment. There are none."""


def test_names_of_test_files_are_unique():
    """Else pytest takes one for the other where all are run at once."""
    names = collections.Counter(path.name for path in (CHECKOUT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_only_text_is_tracked():
    if not (CHECKOUT / ".git").exists():
        pytest.skip("not in a git checkout")
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
    )
    names = [name for name in listed.stdout.decode().split("\0") if name]
    assert names
    wrong = [name for name in names if name not in BINARY and not _text(CHECKOUT / name)]
    assert not wrong, "not text: take it out, or name it in BINARY with its reason"


def _text(path: Path) -> bool:
    if not path.exists():  # removed, and not committed yet
        return True
    content = path.read_bytes()
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in content
