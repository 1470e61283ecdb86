# SPDX-License-Identifier: Apache-2.0
"""Docstrings begin with their subject, and CONTRIBUTING's table has words that the code uses."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.checkout import TOP

import ovs_vhost_plugin

PRODUCT = Path(ovs_vhost_plugin.__file__).parent
HIDDEN_SUBJECTS = ("What ", "Whatever ", "Whoever ", "Have ", "Has ")
"""First words of a docstring whose subject comes later, or never."""
MOST_WORDS = 20
PACKAGES = sorted({str(path.parent.relative_to(PRODUCT)) for path in PRODUCT.rglob("*.py")})


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Each string that is a statement: docstrings, and those behind a constant or field."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text)), lineno=line):
                yield line, text


def _faults(package: str) -> list[str]:
    found = []
    for path in sorted((PRODUCT / package).glob("*.py")):
        for line, text in _docstrings(ast.parse(path.read_text(encoding="utf-8"))):
            first = text.strip().partition("\n")[0]
            if first.startswith(HIDDEN_SUBJECTS) or len(first.split()) > MOST_WORDS:
                found.append(f"{path.relative_to(PRODUCT)}:{line}: {first}")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_begin_with_a_subject_and_a_short_sentence(package: str) -> None:
    faults = _faults(package)
    assert not faults, "\n".join(faults)


def test_the_code_uses_the_words_of_contributing() -> None:
    text = (TOP / "CONTRIBUTING.md").read_text(encoding="utf-8")
    _, _, section = text.partition("### Words")
    words = set(
        re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)))
    )
    code = "\n".join(path.read_text(encoding="utf-8") for path in PRODUCT.rglob("*.py"))
    used = {word.lstrip("_") for word in re.findall(r"\w+", code)}
    assert len(words) > 20
    assert words <= used, f"no code says {sorted(words - used)}"
