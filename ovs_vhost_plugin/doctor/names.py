# SPDX-License-Identifier: Apache-2.0
"""The entry of each name of an error, for a program: what it means, and what to do.

The tables of docs/troubleshooting.md are the one source. `make names` reads them into `names.json`,
which is installed; the page is not.

    python -m ovs_vhost_plugin.doctor.names PAGE >ovs_vhost_plugin/doctor/names.json
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

_FILE = "names.json"
_ITEM = re.compile(r"(?:^|, |; )`([a-z]+(?:-[a-z]+)*)`")
_LINK = re.compile(r"\[([^]]+)\]\(([^)]+)\)")


@dataclass(frozen=True, slots=True)
class NameEntry:
    """The meaning of a name, the remedy, and the page's section that has it."""

    means: str
    do: str
    section: str


@cache
def entries() -> dict[str, NameEntry]:
    """The entries by name, as they are installed."""
    found = json.loads(files(__package__).joinpath(_FILE).read_text())
    return {name: NameEntry(**entry) for name, entry in found.items()}


def entry_of(error: str) -> NameEntry | None:
    """The entry of an error's text, which begins with its name; None: it has no such name."""
    return entries().get(error.partition(":")[0])


def read_page(text: str) -> dict[str, NameEntry]:
    """The entries of the page."""
    found: dict[str, NameEntry] = {}
    section, heads, before = "", list[str](), ""
    intro: list[str] = []
    for line in text[text.index("\n## The row") :].splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("## "):
            section, intro = line[3:], []
        elif not line.startswith("|"):
            heads = []
            intro.append(line)
        elif not heads:
            heads = cells
        elif not set(line) <= set("|- "):
            if heads[-1] == "what to do" and cells[-1].startswith("the same"):
                cells[-1] = before
            before = cells[-1]
            found.update(_row(section, heads, cells, " ".join(intro)))
    return dict(sorted(found.items()))


def _row(
    section: str, heads: list[str], cells: list[str], intro: str
) -> Iterator[tuple[str, NameEntry]]:
    """The entries of a row: its names are in the first column, or in the one headed `names`.

    A name among others may have words of its own behind a colon.
    """
    place = heads.index("names") if "names" in heads else 0
    others = [cell for number, cell in enumerate(cells) if number != place]
    for name in _ITEM.findall(cells[place]):
        own = re.search(rf"`{name}`: (.+?)(?=; `[a-z-]+`|$)", cells[place])
        if heads[-1] == "what to do":
            means, do = others
            if place:
                means = own[1] if own else f"a fault that ends {means or 'the ring'}"
        else:
            # Tables of names alone: what to do is in the words before the table.
            sentences = re.split(r"(?<=\.) ", intro)
            report = next((one for one in sentences if "report it" in one), intro)
            means, do = f"{section}: {others[0]}", own[1] if own else report
        yield name, NameEntry(_plain(means), _plain(do), section)


def _plain(text: str) -> str:
    """Text without links: a program's reader cannot follow them."""
    named = _LINK.sub(r"docs/\2", text).replace("docs/#", "docs/troubleshooting.md#")
    return " ".join(named.split())


def main(argv: list[str]) -> None:
    """Print the entries of a page as JSON."""
    found = read_page(Path(argv[0]).read_text())
    told = {name: asdict(one) for name, one in found.items()}
    print(json.dumps(told, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main(sys.argv[1:])
