# SPDX-License-Identifier: Apache-2.0
"""Where this checkout is."""

import subprocess
from pathlib import Path

TOP = Path(__file__).parents[2]
TESTS = TOP / "tests"

RELEASE_BEFORE = "d9b5feaf7eda805b571b6a9deafe3175bab5edcc"
"""The last commit whose workers speak protocol 2. A shallow clone does not have it."""


def archive(commit: str) -> bytes:
    """The product at a commit, as a tar file; b"" if the history does not have the commit."""
    # Another root on this machine may have another idea of whose the checkout is.
    git = ("git", "-c", "safe.directory=*", "-C", str(TOP))
    return subprocess.run(
        [*git, "archive", commit, "ovs_vhost_plugin"], capture_output=True, check=False
    ).stdout
