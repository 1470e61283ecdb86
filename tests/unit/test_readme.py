# SPDX-License-Identifier: Apache-2.0
"""The README is short, and its commands are those of pages that tests run."""

import re
from xml.etree import ElementTree

from support.checkout import TOP

README = (TOP / "README.md").read_text()
QEMU = (TOP / "docs" / "qemu.md").read_text()  # run by tests/system/test_plain_qemu.py
PICTURE = TOP / "docs" / "overview.svg"


def blocks() -> list[str]:
    """What stands between fences, without their ends."""
    return re.findall(r"^```\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_it_is_read_in_a_few_minutes() -> None:
    assert len(README.splitlines()) <= 130


def test_the_first_port_and_its_vm_are_those_of_the_page_on_qemu() -> None:
    (vm,) = (text for text in blocks() if "memory-backend-memfd" in text)
    assert vm in QEMU
    (port,) = (line for line in README.splitlines() if line.startswith("ovs-vsctl add-port"))
    assert port in QEMU


def test_what_is_installed_exists() -> None:
    (install,) = (text for text in blocks() if "pip install" in text)
    named = re.findall(r" ((?:etc|docs)/\S+)", install)
    assert len(named) > 3
    assert [name for name in named if not (TOP / name).is_file()] == []


def test_the_picture_has_a_light_and_a_dark_scheme() -> None:
    style = ElementTree.parse(PICTURE).find("{http://www.w3.org/2000/svg}style")
    assert style is not None and style.text
    light, _, dark = style.text.partition("@media (prefers-color-scheme: dark)")
    # A class without a colour of its own in the dark has one that is the other scheme's.
    coloured = r"^ *(.+?) \{[^}]*(?:fill|stroke): #"
    names = {name for group in re.findall(coloured, light, re.M) for name in group.split(", ")}
    in_the_dark = {n for group in re.findall(coloured, dark, re.M) for n in group.split(", ")}
    assert names and names - in_the_dark == set()
