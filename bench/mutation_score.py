# SPDX-License-Identifier: Apache-2.0
"""The score of each module after `make mutants`: the share of mutants that a test kills.

A mutant whose tests take too long counts as killed: it made an endless loop. The number of those is
printed too, as a busy machine makes more of them.

Code that runs at import, such as a function that makes an entry of a table, runs before mutmut
forks: its mutants are never killed.
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


def scores(results: Iterable[str]) -> dict[str, tuple[int, int, int]]:
    """Module → numbers of mutants killed, killed by their time alone, and tried."""
    counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0, 0])
    for line in results:
        match = _LINE.fullmatch(line)
        if match is None or match["status"] in LEFT_OUT:
            continue
        count = counts[match["module"]]
        count[0] += match["status"] in NOTICED
        count[1] += match["status"] == "timeout"
        count[2] += 1
    return {module: (count[0], count[1], count[2]) for module, count in sorted(counts.items())}


def main() -> int:
    """Print the scores, and that of all modules together."""
    mutmut = [sys.executable, "-m", "mutmut", "results", "--all", "true"]
    listed = subprocess.run(mutmut, capture_output=True, text=True, check=True)
    found = scores(listed.stdout.splitlines())
    if not found:
        print("nothing was tried")
        return 1
    sums = [sum(column) for column in zip(*found.values(), strict=True)]
    for name, (noticed, slow, tried) in [*found.items(), (f"all, goal {GOAL:.0%}", sums)]:
        print(f"{noticed / tried:7.1%} {noticed:6} of {tried:5} ({slow} by time)  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
