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
import shutil
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
    name = f"kernels-{digest.hexdigest()[:16]}"
    base = package / "__pycache__"
    if not os.access(base if base.exists() else package, os.W_OK):
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(home) / "ovs-vhost-plugin" / name
    for stale in base.glob("kernels-*"):
        if stale.name != name:
            shutil.rmtree(stale, ignore_errors=True)
    return base / name


if not numba.config.CACHE_DIR:
    numba.config.CACHE_DIR = str(_cache_directory())


def kernel(signature: object, *, inline: bool = False) -> Callable[[Function], Function]:
    """Compile a function for exactly `signature` (a numba type such as `int64(int64)`).

    `inline`: always into its callers. Passing a group of arrays costs some hundred bytes of
    stack, which is more than most functions of the packet path do. Reference counts would cost
    more still, and nothing here owns an array: without `_nrt` there are none, and nothing can be
    allocated.
    """
    return numba.njit(  # type: ignore[no-any-return]
        signature,
        nogil=True,
        cache=True,
        error_model="numpy",
        boundscheck=False,
        forceinline=inline,
        _nrt=False,
    )
