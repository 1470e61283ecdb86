# SPDX-License-Identifier: Apache-2.0
"""The build of this program: its release, and a hash of its code.

By it the daemon finds the workers that an earlier release started, and those that were started
before a file of the program was changed.
"""

import hashlib
from functools import cache
from pathlib import Path

from ovs_vhost_plugin import __version__

PACKAGE = Path(__file__).parents[1]


@cache
def of_this_code() -> str:
    """The build of the code as it lay on disk at the first call, which the fork server makes.

    A worker is a fork of the fork server and sees no files; it has the answer by then.
    """
    return f"{__version__}-{digest_of(PACKAGE)}"


def digest_of(*packages: Path) -> str:
    """16 hex digits that depend on all Python sources in `packages`, at any depth."""
    digest = hashlib.sha256()
    for package in packages:
        for source in sorted(package.rglob("*.py")):
            digest.update(f"{source.relative_to(package.parent)}\0".encode())
            digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()[:16]
