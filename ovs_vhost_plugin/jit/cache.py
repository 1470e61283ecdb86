# SPDX-License-Identifier: Apache-2.0
"""The directory that keeps compiled kernels between two starts, and the checks before its use.

numba loads its cache with pickle: anybody who may write the cache runs code as the user who loads
it, which is root in the daemon's fork server. So neither $HOME nor numba's own variable counts
here, and a directory that others may write is refused. Compiling anew costs only seconds.

This module does not import numba, so that the daemon can name a problem without loading a compiler.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ovs_vhost_plugin.common import trusted
from ovs_vhost_plugin.common.build import digest_of
from ovs_vhost_plugin.common.trusted import DistrustError

VARIABLE = "OVS_VHOST_CACHE_DIR"
"""The environment variable that names the directory."""

SYSTEM = Path("/var/cache/ovs-vhost")
"""Root's directory, made by the unit's CacheDirectory=."""

_SOURCES = Path(__file__).parent, Path(trusted.__file__).parent
"""The packages jit/ and common/: kernels import no other, as pyproject.toml's contracts say."""

_WHAT_TO_DO = f"each start compiles for seconds; set {VARIABLE} to a directory of root's alone"


@dataclass(frozen=True, slots=True)
class Cache:
    """The directory for kernels; without a directory, `refusal` says why as name and text."""

    directory: Path | None
    refusal: str = ""


def place() -> Path:
    """The wanted directory: the environment's, else root's, else in the user's own cache."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given).absolute()
    if os.geteuid() == 0:
        return SYSTEM
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home).absolute() / "ovs-vhost"


def find() -> Cache:
    """Make the directory if needed, and check that it is ours and writable."""
    base = place()
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        trusted.check_directory(base)
        trusted.check_files(base)
        with tempfile.TemporaryFile(dir=base):
            pass
    except DistrustError as error:
        return Cache(None, f"cache-not-trusted: {error}; {_WHAT_TO_DO}")
    except OSError as error:
        return Cache(None, f"cache-not-usable: {base}: {error.strerror}; {_WHAT_TO_DO}")
    return Cache(base)


def of_sources(cache: Cache) -> Path | None:
    """The part of the cache for these kernels; the parts of older kernels are removed.

    numba notices a change of a kernel's own file, but not of kernels and constants from other files
    that were compiled into it. So the name depends on all sources that kernels may import.
    """
    if cache.directory is None:
        return None
    name = f"kernels-{digest_of(*_SOURCES)}"
    for stale in cache.directory.glob("kernels-*"):
        if stale.name != name:
            shutil.rmtree(stale, ignore_errors=True)
    return cache.directory / name
