# SPDX-License-Identifier: Apache-2.0
"""Where this checkout is."""

import subprocess
from pathlib import Path

TOP = Path(__file__).parents[2]
TESTS = TOP / "tests"

RELEASE_BEFORE = "d9b5feaf7eda805b571b6a9deafe3175bab5edcc"
"""The last commit whose workers speak protocol 2. A shallow clone does not have it."""


# Another root on this machine may have another idea of whose the checkout is.
_GIT = ("git", "-c", "safe.directory=*")


def archive(commit: str) -> bytes:
    """The product at a commit, as a tar file; b"" if the history does not have the commit."""
    return subprocess.run(
        [*_GIT, "-C", str(TOP), "archive", commit, "ovs_vhost_plugin"],
        capture_output=True,
        check=False,
    ).stdout


def copy(to: Path) -> None:
    """Copy the files that git has, as they are now, into a repository of their own."""
    to.mkdir(parents=True)
    listed = _git(TOP, "ls-files", "-z")
    into = ["--null", "--files-from=-", "--create"]
    packed = subprocess.run(
        ["tar", *into], cwd=TOP, input=listed, capture_output=True, check=True
    ).stdout
    subprocess.run(["tar", "--extract"], cwd=to, input=packed, check=True)
    _git(to, "init", "--quiet")
    _git(to, "add", "--all", "--force")


def _git(directory: Path, *command: str) -> bytes:
    argv = [*_GIT, "-C", str(directory), *command]
    return subprocess.run(argv, capture_output=True, check=True).stdout
