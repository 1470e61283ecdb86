# SPDX-License-Identifier: Apache-2.0
"""`make soak`: hours of a host's bad nights in minutes, with a seed that repeats them."""

import argparse
import secrets
import sys
import time
from pathlib import Path

_TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(_TESTS), str(_TESTS.parent)]

from soak.loops import LOOPS  # noqa: E402 - found by the path above
from soak.machine import missing  # noqa: E402 - found by the path above
from soak.run import soak  # noqa: E402 - found by the path above


def main() -> int:
    """Exit status: 0 if nothing was lost, doubled, changed or leaked."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--ports", type=int, default=8, help="with a software guest each (8)")
    parser.add_argument("--machines", type=int, default=2, help="in QEMU (2)")
    for name in LOOPS:
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"instead, {name} in a loop")
    options = parser.parse_args()
    begun = time.monotonic()

    def say(words: str) -> None:
        print(f"{time.monotonic() - begun:7.1f} s  {words}", flush=True)

    counts = {name: count for name in LOOPS if (count := getattr(options, name))}
    found = []
    for name, count in counts.items():
        found += LOOPS[name](count, say)
    if not counts:
        machines = options.machines
        if machines and (lacking := missing()):
            say(f"no machines: {lacking}")
            machines = 0
        size = f"{options.ports} ports, {machines} machines"
        say(f"seed {options.seed}, {size}, {options.minutes:g} min")
        found = soak(60 * options.minutes, options.seed, options.ports, say, machines)
    for fault in found:
        say(fault)
    if not found:
        say("nothing was lost, doubled, changed or leaked")
    elif not counts:
        say(f"repeat it with: make soak MINUTES={options.minutes:g} SOAK='--seed {options.seed}'")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
