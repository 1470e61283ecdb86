# SPDX-License-Identifier: Apache-2.0
"""`make fuzz`: round after round of the fuzzers with random examples, until FUZZ_SECONDS are over.

Each round has a seed of its own. The first that finds something ends it, with the smallest example
that was found and the command that repeats the round.
"""

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

_HERE = Path(__file__).parent


def main() -> int:
    """Exit status: 0 if nothing was found."""
    seconds = float(os.environ.get("FUZZ_SECONDS", "300"))
    begin = time.monotonic()
    rounds = 0
    while time.monotonic() - begin < seconds:
        rounds += 1
        seed = secrets.randbits(32)
        gone = time.monotonic() - begin
        print(f"round {rounds}, seed {seed}: {gone:.0f} of {seconds:g} s gone", flush=True)
        options = ["-q", "-x", "-p", "no:cacheprovider", f"--hypothesis-seed={seed}", *sys.argv[1:]]
        command = [sys.executable, "-m", "pytest", *options, str(_HERE)]
        if subprocess.run(command, env=os.environ | {"FUZZ_PROFILE": "long"}).returncode:
            print("repeat it with: FUZZ_PROFILE=long", *command[:1], *command[1:])
            return 1
    print(f"nothing found in {rounds} rounds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
