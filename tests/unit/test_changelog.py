# SPDX-License-Identifier: Apache-2.0
"""CHANGELOG.md has a part for what is not released, and one for each release, the newest first."""

import re

from support.checkout import TOP

from ovs_vhost_plugin import __version__

TEXT = (TOP / "CHANGELOG.md").read_text()
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_parts_are_the_releases_and_what_comes() -> None:
    parts = re.findall(r"^## \[(.+?)\](?: - \d{4}-\d\d-\d\d)?$", TEXT, re.MULTILINE)
    assert parts == re.findall(r"^## \[(.+?)\]", TEXT, re.MULTILINE) and len(set(parts)) == len(
        parts
    )
    assert parts[0] == "Unreleased" and __version__ in parts
    numbers = [tuple(map(int, part.split("."))) for part in parts[1:]]
    assert numbers == sorted(numbers, reverse=True)


def test_each_change_is_of_a_kind() -> None:
    assert set(re.findall(r"^### (.+)$", TEXT, re.MULTILINE)) <= KINDS
    for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]:
        before = part.partition("### ")[0]
        assert "\n- " not in before, "a change without its kind"
