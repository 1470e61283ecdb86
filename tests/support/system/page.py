# SPDX-License-Identifier: Apache-2.0
"""The documentation as tests run it: the blocks of code on a page."""

import re
import textwrap

from support.checkout import TOP

DOCS = TOP / "docs"


def blocks(page: str, kind: str) -> list[str]:
    """The blocks of that kind (`sh`, `xml`, …) on a page of docs/, in order."""
    text = (DOCS / page).read_text()
    fenced = rf"^( *)```{kind}\n(.*?)^\1```$"
    return [textwrap.dedent(b) for _, b in re.findall(fenced, text, re.DOTALL | re.MULTILINE)]


def block(page: str, kind: str, word: str) -> str:
    """The one block of that kind with `word` in it."""
    (found,) = (text for text in blocks(page, kind) if word in text)
    return found
