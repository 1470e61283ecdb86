# SPDX-License-Identifier: Apache-2.0
"""One decorator that fixes how kernels are compiled, so that each kernel only says its types.

An explicit signature compiles at import, never while packets wait, and refuses arrays of another
layout. `nogil` lets the control plane's Python run beside the loops. Division by zero follows
numpy, because raising would need the interpreter.

numba's cache notices a change of the file that a kernel is in, but not of the kernels that were
compiled into it from other files. So the cache's place depends on all of this package's sources.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

JIT = not numba.config.DISABLE_JIT
"""False under NUMBA_DISABLE_JIT=1: kernels are then plain Python, seen by coverage tools."""


def _cache_directory() -> Path:
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for source in sorted(package.glob("*.py")):
        digest.update(source.read_bytes())
    base = package / "__pycache__"
    if not os.access(base if base.exists() else package, os.W_OK):
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        base = Path(home) / "ovs-vhost-plugin"
    return base / f"kernels-{digest.hexdigest()[:16]}"


if not numba.config.CACHE_DIR:
    numba.config.CACHE_DIR = str(_cache_directory())


def kernel(signature: object) -> Callable[[Function], Function]:
    """Compile a function for exactly `signature` (a numba type such as `int64(int64)`)."""
    return numba.njit(  # type: ignore[no-any-return]
        signature, nogil=True, cache=True, error_model="numpy", boundscheck=False
    )
