# SPDX-License-Identifier: Apache-2.0
"""The recipes of CONTRIBUTING.md: here fails a step whose absence nothing else notices."""

import ast
import dataclasses
import re

import pytest
from support.checkout import TOP

from ovs_vhost_plugin.announce.triggers import Trigger
from ovs_vhost_plugin.ipc.spec import PortSettings

PRODUCT = TOP / "ovs_vhost_plugin"
SETTINGS = [field.name for field in dataclasses.fields(PortSettings)]


def test_every_setting_is_read_from_the_row():
    tree = ast.parse((PRODUCT / "daemon/ovsdb/settings_rows.py").read_text())
    (made,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "PortSettings"
    )
    assert [keyword.arg for keyword in made.keywords] == SETTINGS


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_used_by_the_worker(name):
    texts = (path.read_text() for path in (PRODUCT / "worker").rglob("*.py"))
    assert any(
        isinstance(node, ast.Attribute) and node.attr == name
        for text in texts
        for node in ast.walk(ast.parse(text))
    )


def test_every_file_of_a_recipe_exists():
    text = (TOP / "CONTRIBUTING.md").read_text().partition("## Recipes")[2]
    text = text.partition("\n## ")[0]
    files = re.findall(r"`([\w/.-]+\.(?:py|md))`", text)
    assert len(files) > 15
    assert [name for name in files if not any((p / name).exists() for p in (PRODUCT, TOP))] == []


def test_every_trigger_is_described_and_no_other():
    page = (TOP / "docs/announce.md").read_text().partition("\n## When\n")[2].partition("\n## ")[0]
    described = re.findall(
        r"^\| `([a-z-]+)` \|", page.partition("\n\nA front-end")[0], re.MULTILINE
    )
    assert sorted(described) == sorted(Trigger)


@pytest.mark.parametrize("trigger", Trigger)
def test_every_trigger_is_used(trigger):
    texts = (path.read_text() for path in (PRODUCT / "announce").rglob("*.py"))
    assert any(f"Trigger.{trigger.name}" in text for text in texts)
