# SPDX-License-Identifier: Apache-2.0
"""Package sources of another release, on the machine's own mirrors.

apt itself lists this machine's sources, in whatever format they are written.  Those of its own
release are asked for the other release instead.  Needs nothing but Python itself, as it runs before
there is a virtual environment.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_ASK = (
    *("apt-get", "indextargets", "--no-release-info"),
    *("--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"),
)
_ALIASES = ("stable", "oldstable", "testing", "unstable", "sid")
_POCKETS = ("", "-updates", "-security")
"""Suffixes of a release's name in its suites. Others (-backports, -proposed) are not wanted."""
_ROLLING = ("sid", "unstable")
"""Releases without any pockets."""


class NoMirrorError(Exception):
    """This machine's sources name no mirror of its own release."""


@dataclass(frozen=True)
class PackageSource:
    """One suite of one mirror, as a line of sources.list."""

    uri: str
    suite: str
    components: tuple[str, ...]

    def __str__(self) -> str:
        return f"deb {self.uri} {self.suite} {' '.join(self.components)}"


def configured(options: Sequence[str] = ()) -> list[PackageSource]:
    """The machine's sources, as apt reads them; `options` are more of apt's (-o A=B)."""
    words = subprocess.run([*_ASK, *options], capture_output=True, text=True, check=True).stdout
    merged: dict[tuple[str, str], dict[str, None]] = {}
    for line in words.splitlines():
        uri, suite, component = line.split(" ", 2)
        # A source that is only a directory of packages has no components.
        if not component.startswith("$"):
            merged.setdefault((_mirror(uri), suite), {})[component] = None
    return [
        PackageSource(uri, suite, tuple(components)) for (uri, suite), components in merged.items()
    ]


def of_release(sources: Iterable[PackageSource], own: str, wanted: str) -> list[PackageSource]:
    """The sources of the release `wanted`, from those of a machine of the release `own`.

    The first is the release itself, from the mirror that is named first.  Raises NoMirrorError.
    """
    found: dict[str, PackageSource] = {}
    for source in sources:
        for pocket in _POCKETS:
            bases = {source.suite.removesuffix(pocket)} if source.suite.endswith(pocket) else set()
            if bases & {own, *_ALIASES} and "main" in source.components:
                suite = f"{wanted}{pocket}"
                found.setdefault(pocket, PackageSource(source.uri, suite, source.components))
    if "" not in found:
        raise NoMirrorError(f"the apt sources of this machine name no mirror that has {own} main")
    pockets = [""] if wanted in _ROLLING else _POCKETS
    return [found[pocket] for pocket in pockets if pocket in found]


def _mirror(uri: str) -> str:
    """A plain URI: apt's mirror+file:PATH names a file that lists them, the best one first."""
    uri = uri.rstrip("/")
    if not uri.startswith("mirror+file:"):
        return uri
    path = Path("/" + uri.removeprefix("mirror+file:").lstrip("/"))
    lines = (line.split("#")[0].split() for line in path.read_text().splitlines())
    listed = [words[0].rstrip("/") for words in lines if words]
    return listed[0] if listed else uri
