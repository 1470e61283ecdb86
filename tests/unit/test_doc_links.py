# SPDX-License-Identifier: Apache-2.0
"""Every relative link and anchor of a Markdown page leads somewhere, and so does a page's name."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from support.checkout import TOP

FENCED = re.compile(r"^( *)(```|~~~).*?^\1\2", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\]\(([^()\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
PAGE_NAME = re.compile(r"(?<![\w/.-])docs/[\w/-]+\.(?:md|8|svg)\b")
SOURCES = (".py", ".toml", ".service", ".conf", "Makefile", ".yml")


def files(*ends: str) -> list[Path]:
    """The files of the checkout with these ends, without what is made or hidden."""
    return [
        path
        for path in sorted(TOP.rglob("*"))
        if path.name.endswith(ends)
        and path.is_file()
        and not any(
            part.startswith(".") or part in ("build", "dist")
            for part in path.relative_to(TOP).parts
        )
    ]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?)\s*#*$", FENCED.sub("", text), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        number, unique = 0, slug
        while unique in found:
            number += 1
            unique = f"{slug}-{number}"
        found.add(unique)
    return found | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))


def links(text: str) -> list[str]:
    """The relative targets on a page; what is in code is no link."""
    shown = CODE.sub("``", FENCED.sub("", text))
    targets = [first or second for first, second in LINK.findall(shown)]
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def broken(text: str, page: Path) -> list[str]:
    """The links of a page's text that lead nowhere."""
    return [target for target in links(text) if not leads_somewhere(target, text, page)]


def leads_somewhere(target: str, text: str, page: Path) -> bool:
    name, _, anchor = unquote(target).partition("#")
    path = (page.parent / name).resolve() if name else page
    if name and not (path.exists() and path.is_relative_to(TOP)):
        return False
    if not anchor or path.suffix != ".md":
        return True
    return anchor in anchors(path.read_text() if name else text)


PAGES = files(".md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_each_link_of_a_page_leads_somewhere(page: Path) -> None:
    assert broken(page.read_text(), page) == []


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("#a-b-c", True),
        ("#a-b-c-1", True),
        ("#d", False),
        ("security.md", True),
        ("security.md#system-calls", True),
        ("security.md#no-such", False),
        ("no-such.md", False),
        ("../README.md", True),
        ("../../outside", False),
        ("https://example.com/#d", True),
    ],
)
def test_a_link_that_leads_nowhere_is_found(target: str, found: bool) -> None:
    text = f"# A `b`, c\n## A b, c\n[x]({target}) `[d](code.md)`\n```\n[e](fenced.md)\n```\n"
    assert broken(text, TOP / "docs" / "page.md") == ([] if found else [target])


@pytest.mark.parametrize("directory", ["docs", "docs/decisions"])
def test_an_index_has_every_page_of_its_directory(directory: str) -> None:
    index = TOP / directory / "README.md"
    listed = {
        (index.parent / link.partition("#")[0]).resolve() for link in links(index.read_text())
    }
    below = {page for page in PAGES if page.name == "README.md" and page.parents[1] == index.parent}
    pages = {page for page in PAGES if page.parent == index.parent} | below
    assert sorted(pages - listed - {index}) == []


def test_code_that_pages_name_exists() -> None:
    names = [f"/{path.relative_to(TOP)}" for path in files(".py")]
    named = {
        (page, name)
        for page in PAGES
        for name in re.findall(r"`([\w./-]+\.py)(?:::\w+)?`", page.read_text())
    }
    assert len(named) > 50
    missing = [
        (str(page.relative_to(TOP)), name)
        for page, name in named
        if not (page.parent / name).exists() and not any(n.endswith(f"/{name}") for n in names)
    ]
    assert sorted(missing) == []


def test_pages_that_code_names_exist() -> None:
    named = {
        (str(path.relative_to(TOP)), name)
        for path in files(*SOURCES)
        for name in PAGE_NAME.findall(path.read_text())
    }
    assert len(named) > 10
    assert sorted(pair for pair in named if not (TOP / pair[1]).exists()) == []
