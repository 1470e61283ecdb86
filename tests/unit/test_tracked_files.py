# SPDX-License-Identifier: Apache-2.0
"""What git keeps is what a person wrote and can read: no compiled code, no cache, no archive."""

import subprocess
from pathlib import Path

import pytest
from support.checkout import TOP

BINARY: frozenset[str] = frozenset()
"""Tracked files that are no text, each with its reason in a comment. There are none."""


def test_unit_tests_lie_as_the_product_does():
    """Whoever has a module open finds its tests below the same path."""
    unit, product = TOP / "tests/unit", TOP / "ovs_vhost_plugin"
    folders = {path.parent.relative_to(unit) for path in unit.rglob("test_*.py")}
    assert [str(folder) for folder in folders if not (product / folder).is_dir()] == []


def test_only_text_is_tracked():
    if not (TOP / ".git").exists():
        pytest.skip("not in a git checkout")
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"],
        cwd=TOP,
        check=True,
        capture_output=True,
    )
    names = [name for name in listed.stdout.decode().split("\0") if name]
    assert names
    wrong = [name for name in names if name not in BINARY and not _text(TOP / name)]
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
