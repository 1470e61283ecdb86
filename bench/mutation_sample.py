# SPDX-License-Identifier: Apache-2.0
"""The names of some mutants, drawn at random: `make mutants SAMPLE=500` estimates the score.

The same number draws the same names, as long as the code stays the same.
"""

import random
import subprocess
import sys
from collections.abc import Iterable

SEED = 1


def sample(results: Iterable[str], number: int, seed: int = SEED) -> list[str]:
    """`number` names of those that `mutmut results` lists, or all if there are no more."""
    names = sorted(line.strip().partition(": ")[0] for line in results if ": " in line)
    return random.Random(seed).sample(names, min(number, len(names)))


def main() -> int:
    """Print the names of as many as the command line says."""
    mutmut = [sys.executable, "-m", "mutmut", "results", "--all", "true"]
    listed = subprocess.run(mutmut, capture_output=True, text=True, check=True)
    print(*sample(listed.stdout.splitlines(), int(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
