# SPDX-License-Identifier: Apache-2.0
"""A newcomer finds the way: packages are small, have a page, and no class name is two classes'."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
from support.checkout import TOP

PRODUCT = TOP / "ovs_vhost_plugin"
PACKAGES = sorted(path.parent for path in PRODUCT.rglob("__init__.py") if path.parent != PRODUCT)
MODULES_AT_MOST = 13
LINES_AT_MOST = 370


def modules(package: Path) -> set[str]:
    return {path.name for path in package.glob("*.py")} - {"__init__.py"}


def page_of(package: Path) -> Path:
    """The package's own page, or the one of the package that it is a part of."""
    return next(
        place / "README.md" for place in (package, package.parent) if (place / "README.md").exists()
    )


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(PRODUCT)))
def test_a_page_names_the_modules_of_a_package(package):
    assert modules(package) - set(re.findall(r"`(\w+\.py)`", page_of(package).read_text())) == set()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(PRODUCT)))
def test_a_package_is_small_enough_to_be_seen_at_once(package):
    assert len(modules(package)) <= MODULES_AT_MOST


@pytest.mark.parametrize("path", sorted(PRODUCT.rglob("*.py")), ids=lambda path: path.stem)
def test_a_module_is_one_idea(path):
    assert len(path.read_text().splitlines()) <= LINES_AT_MOST


def test_no_public_class_name_is_twice_in_the_product():
    names = Counter(
        node.name
        for path in PRODUCT.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, times in names.items() if times > 1] == []
