# SPDX-License-Identifier: Apache-2.0
"""The score of each module after `make mutants`: which share of the small changes a test notices.

A change that the tests need too long for counts as noticed: it made a loop without an end.
"""

import collections
import re
import subprocess
import sys
from collections.abc import Iterable

GOAL = 0.95
NOTICED = ("killed", "timeout", "segfault", "caught by type check")
LEFT_OUT = ("skipped", "not checked")

_LINE = re.compile(r"\s*(?P<module>\S+)\.x\S+: (?P<status>.+)")
"""One of `mutmut results`: the name of a change is its module's, and "x" and the function's."""


def scores(results: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Of each module how many changes were noticed, and how many were tried."""
    counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for line in results:
        match = _LINE.fullmatch(line)
        if match is None or match["status"] in LEFT_OUT:
            continue
        counts[match["module"]][0] += match["status"] in NOTICED
        counts[match["module"]][1] += 1
    return {module: (noticed, tried) for module, (noticed, tried) in sorted(counts.items())}


def main() -> int:
    """Print them, and that of all together."""
    mutmut = [sys.executable, "-m", "mutmut", "results", "--all", "true"]
    listed = subprocess.run(mutmut, capture_output=True, text=True, check=True)
    found = scores(listed.stdout.splitlines())
    if not found:
        print("nothing was tried")
        return 1
    noticed, tried = (sum(column) for column in zip(*found.values(), strict=True))
    for name, (some, of) in [*found.items(), (f"all, goal {GOAL:.0%}", (noticed, tried))]:
        print(f"{some / of:7.1%} {some:6} of {of:5}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
